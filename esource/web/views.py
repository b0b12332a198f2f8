"""HTTP: the channels' routes, and the one place where errors become answers.

`POST /<channel>` is in `publish`, `GET /<channel>` in `read`.
"""

from collections.abc import Callable
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.http import quote_etag

from esource.errors import BadRange, Busy, EsourceError, PreconditionFailed
from esource.hub.hub import Hub
from esource.web.answers import answer
from esource.web.origin import Origins
from esource.web.publish import publish
from esource.web.read import read


def register(app: Flask, hub: Hub) -> Callable[[dict[str, Any]], Response]:
    """Put the channels' routes and the error handlers into the app.

    Return what answers a POST to a channel, given its WSGI environment, as the app would:
    without Flask's dispatch, for the fast path.
    """
    origins = Origins(hub.config)

    def checked() -> dict[str, Any]:
        environ = request.environ
        if environ["PATH_INFO"].startswith("//"):
            raise NotFound  # to Werkzeug it is the same as with one slash; a gateway may differ
        origins.check_host(environ)
        return environ

    def post(channel: str) -> Response:
        environ = checked()
        origins.check_write(environ)
        return publish(hub, channel, environ)

    def post_directly(environ: dict[str, Any]) -> Response:
        try:
            origins.check_host(environ)
            origins.check_write(environ)
            response = publish(hub, environ["PATH_INFO"][1:], environ)
        except EsourceError as error:
            response = failed(error)
        except Exception as error:
            response = broken(error, environ)
        return cross_origin(response, environ) if hub.config.cors_origins else response

    def get(channel: str) -> Response:
        return read(hub, channel, checked())

    def options(channel: str) -> Response:
        return answer("", 204, origins.preflight(checked()))

    def cross_origin(response: Response, environ: dict[str, Any] | None = None) -> Response:
        response.headers.extend(origins.headers(environ or request.environ))
        return response

    def counted(answer_for: Callable[..., Response]) -> Callable[..., Response]:
        def counting(*about: Any) -> Response:
            response = answer_for(*about)
            hub.stats.refuse(response.status_code)
            return response

        return counting

    def explain(error: Exception, environ: dict[str, Any] | None = None) -> Response:
        """Answer for a defect of the hub: its cause goes to the log, not to the client."""
        environ = environ or request.environ
        app.logger.error(
            "%s %s", environ["REQUEST_METHOD"], environ["PATH_INFO"], exc_info=error
        )  # fmt: skip
        return answer("the hub has failed; its log says why\n", 500)

    if hub.config.cors_origins:
        app.after_request(cross_origin)
    for view, methods in ((post, ["POST"]), (get, ["GET", "HEAD"]), (options, ["OPTIONS"])):
        app.add_url_rule(
            "/<channel>", view_func=view, methods=methods, provide_automatic_options=False
        )
    failed, broken = counted(_failed), counted(explain)
    app.register_error_handler(EsourceError, failed)
    app.register_error_handler(HTTPException, counted(_refused))
    app.register_error_handler(Exception, broken)
    return post_directly


def _failed(error: Exception) -> Response:
    assert isinstance(error, EsourceError)
    return answer(f"{error}\n", error.status, _headers(error))


def _headers(error: EsourceError) -> dict[str, str]:
    """Return the headers in which an error's facts are told."""
    match error:
        case Busy():
            return {"Retry-After": str(error.seconds)}
        case BadRange():
            return {"Content-Range": f"bytes */{error.size}"}
        case PreconditionFailed(version=version) if version:
            return {"ETag": quote_etag(version)}  # to try again
        case _:
            return {}


def _refused(error: Exception) -> Response:
    """Answer for what Werkzeug refused: no such page, method not allowed."""
    assert isinstance(error, HTTPException)
    status = error.code or 500
    if status == 405:
        allowed = dict(error.get_headers()).get("Allow", "")
        allow = ", ".join(sorted(allowed.split(", ")))  # from a set
        return answer(f"this method is not for this path; use {allow}\n", status, {"Allow": allow})
    text = "there is nothing here; channels are at /NAME" if status == 404 else error.name.lower()
    return answer(f"{text}\n", status)
