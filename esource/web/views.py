"""HTTP: the channels' routes, and the one place where errors become answers.

`POST /<channel>` is in `publish`, `GET /<channel>` in `read`.
"""

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, NotFound

from esource.errors import BadInput, BadRange, Busy, EsourceError, PreconditionFailed
from esource.hub.hub import Hub
from esource.web.answers import answer, etag
from esource.web.ops import FOR_ANY_HOST
from esource.web.origin import Origins
from esource.web.post import Answer, Body, Post, Publish, body_of
from esource.web.publish import publish
from esource.web.read import read


def register(app: Flask, hub: Hub, origins: Origins) -> Publish:
    """Put the channels' routes into the app, what goes before every view, and error handlers.

    Return what answers a POST to a channel as the app would, but without Flask's dispatch: for
    the server's fast path.
    """

    def check() -> None:
        # To Werkzeug two slashes are the same as one; a gateway may differ.
        if request.environ["PATH_INFO"].startswith("//"):
            raise NotFound
        if request.environ["PATH_INFO"] not in FOR_ANY_HOST:
            origins.check_host(request.environ.get("HTTP_HOST", ""))
        if request.environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            raise BadInput("the hub speaks no WebSocket; follow a channel with EventSource")

    def written(post: Post, body: Body) -> Response:
        origins.check_write(post.host, post.origin, post.site)
        return publish(hub, post, body)

    def written_directly(post: Post, body: Body) -> Answer:
        try:
            origins.check_host(post.host)
            response = written(post, body)
        except EsourceError as error:
            response = failed(error)
        except Exception as error:
            response = broken(error, f"POST /{post.channel}")
        if hub.config.cors_origins:
            response.headers.extend(origins.headers(post.origin))
        return Answer(response.status, response.headers, response.get_data())

    def post(channel: str) -> Response:
        return written(Post.from_environ(channel, request.environ), body_of(request.environ))

    def get(channel: str) -> Response:
        return read(hub, channel, request.environ)

    def options(channel: str) -> Response:
        return answer("", 204, origins.preflight(request.environ))

    def cross_origin(response: Response) -> Response:
        response.headers.extend(origins.headers(request.environ.get("HTTP_ORIGIN")))
        return response

    def counted(response: Response) -> Response:
        hub.stats.refuse(response.status_code)
        return response

    def failed(error: EsourceError) -> Response:
        return counted(answer(f"{error}\n", error.status, _headers(error)))

    def broken(error: Exception, what: str) -> Response:
        """Answer for a defect of the hub: its cause goes to the log, not to the client."""
        app.logger.error("%s", what, exc_info=error)
        return counted(answer("the hub has failed; its log says why\n", 500))

    for view, methods in ((post, ["POST"]), (get, ["GET", "HEAD"]), (options, ["OPTIONS"])):
        app.add_url_rule(
            "/<channel>", view_func=view, methods=methods, provide_automatic_options=False
        )
    app.before_request(check)
    app.register_error_handler(EsourceError, failed)
    app.register_error_handler(HTTPException, lambda error: counted(_refused(error)))
    app.register_error_handler(
        Exception, lambda error: broken(error, f"{request.method} {request.environ['PATH_INFO']}")
    )
    if hub.config.cors_origins:
        app.after_request(cross_origin)
    return written_directly


def _headers(error: EsourceError) -> dict[str, str]:
    """Return the headers in which an error's facts are told."""
    match error:
        case Busy():
            return {"Retry-After": str(error.seconds)}
        case BadRange():
            return {"Content-Range": f"bytes */{error.size}"}
        case PreconditionFailed(view=view) if view:
            return {"ETag": etag(view)}  # to try again
        case _:
            return {}


def _refused(error: HTTPException) -> Response:
    """Answer for what Werkzeug refused: no such page, method not allowed."""
    status = error.code or 500
    if status == 405:
        allowed = dict(error.get_headers()).get("Allow", "")
        allow = ", ".join(sorted(allowed.split(", ")))  # from a set
        what = f"{request.method[:20]} is not for this path; use {allow}"
        if "POST" in allow:
            what = f"{request.method[:20]} is not for channels; POST publishes, GET reads"
        return answer(f"{what}\n", status, {"Allow": allow})
    text = error.name.lower()
    if status == 404:
        text = "there is nothing here; channels are at /NAME, all else is listed at /-/"
        if request.environ["PATH_INFO"].endswith("/"):
            text = "there is nothing here; the path of a channel has no slash at its end"
    return answer(f"{text}\n", status)
