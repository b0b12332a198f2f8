"""HTTP: the channels' routes, and the one place where errors become answers.

`POST /<channel>` is in `publish`, `GET /<channel>` in `read`.
"""

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.http import quote_etag

from esource.errors import BadRange, Busy, EsourceError, PreconditionFailed
from esource.hub.hub import Hub
from esource.web.answers import answer
from esource.web.environ import Environ
from esource.web.origin import Origins
from esource.web.post import Body, Post, Publish, body_of
from esource.web.publish import publish
from esource.web.read import read


def register(app: Flask, hub: Hub) -> Publish:
    """Put the channels' routes and the error handlers into the app.

    Return what answers a POST to a channel as the app would, but without Flask's dispatch: for
    the server's fast path.
    """
    origins = Origins(hub.config)

    def written(post: Post, body: Body) -> Response:
        origins.check_host(post.host)
        origins.check_write(post.host, post.origin, post.site)
        return publish(hub, post, body)

    def written_directly(post: Post, body: Body) -> Response:
        try:
            response = written(post, body)
        except EsourceError as error:
            response = failed(error)
        except Exception as error:
            response = broken(error, f"POST /{post.channel}")
        return cross_origin(response, post.origin) if hub.config.cors_origins else response

    def post(channel: str) -> Response:
        _refuse_two_slashes(request.environ)
        return written(Post.from_environ(channel, request.environ), body_of(request.environ))

    def get(channel: str) -> Response:
        _refuse_two_slashes(request.environ)
        origins.check_host(request.environ.get("HTTP_HOST", ""))
        return read(hub, channel, request.environ)

    def options(channel: str) -> Response:
        _refuse_two_slashes(request.environ)
        return answer("", 204, preflight(origins, request.environ))

    def cross_origin(response: Response, origin: str | None) -> Response:
        response.headers.extend(origins.headers(origin))
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
    app.register_error_handler(EsourceError, failed)
    app.register_error_handler(HTTPException, lambda error: counted(_refused(error)))
    app.register_error_handler(
        Exception, lambda error: broken(error, f"{request.method} {request.environ['PATH_INFO']}")
    )
    if hub.config.cors_origins:
        app.after_request(
            lambda response: cross_origin(response, request.environ.get("HTTP_ORIGIN"))
        )
    return written_directly


def _headers(error: EsourceError) -> dict[str, str]:
    """Return the headers in which an error's facts are told."""
    match error:
        case Busy():
            return {"Retry-After": str(error.seconds)}
        case BadRange():
            return {"Content-Range": f"bytes */{error.size}"}
        case PreconditionFailed(view=view) if view:
            return {"ETag": quote_etag(view.version)}  # to try again
        case _:
            return {}


def _refuse_two_slashes(environ: Environ) -> None:
    """Raise `NotFound`: to Werkzeug it is the same as with one slash; a gateway may differ."""
    if environ["PATH_INFO"].startswith("//"):
        raise NotFound


def preflight(origins: Origins, environ: Environ) -> dict[str, str]:
    """Return the headers of the answer to OPTIONS. Raises `Misdirected`, `Forbidden`."""
    origins.check_host(environ.get("HTTP_HOST", ""))
    return origins.preflight(
        environ.get("HTTP_ORIGIN"), environ.get("HTTP_ACCESS_CONTROL_REQUEST_METHOD")
    )


def _refused(error: HTTPException) -> Response:
    """Answer for what Werkzeug refused: no such page, method not allowed."""
    status = error.code or 500
    if status == 405:
        allowed = dict(error.get_headers()).get("Allow", "")
        allow = ", ".join(sorted(allowed.split(", ")))  # from a set
        return answer(f"this method is not for this path; use {allow}\n", status, {"Allow": allow})
    text = "there is nothing here; channels are at /NAME" if status == 404 else error.name.lower()
    return answer(f"{text}\n", status)
