"""HTTP: the channels' routes, and the one place where errors become answers.

`POST /<channel>` is in `publish`, `GET /<channel>` in `read`.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, NotFound

from esource.errors import BadInput, BadRange, Busy, EsourceError, PreconditionFailed
from esource.hub.commit import Receipt
from esource.hub.hub import Hub
from esource.hub.memory import Share
from esource.web.answers import answer, etag, plain, response
from esource.web.get import Begun, Connection, Following, Get
from esource.web.ops import FOR_ANY_HOST
from esource.web.origin import Origins
from esource.web.post import Answer, Body, Fields, Plan, Post, Publishing, body_of
from esource.web.publish import plan, publish, queue, told
from esource.web.read import Asked, ask, follow, read

QUERIES = 256  # with an `Accept` each, that are remembered: followers ask for the same


class Directly(NamedTuple):
    """What answers as the app would, without its dispatch: for the server's fast path."""

    publishing: Publishing
    following: Following["Plain"]


def register(app: Flask, hub: Hub, origins: Origins) -> Directly:
    """Put the channels' routes into the app, what goes before every view, and error handlers.

    Return what answers without them.
    """

    def check() -> None:
        # To Werkzeug two slashes are the same as one; a gateway may differ.
        if request.environ["PATH_INFO"].startswith("//"):
            raise NotFound
        if request.environ["PATH_INFO"] not in FOR_ANY_HOST:
            origins.check_host(request.environ.get("HTTP_HOST", ""))
        if request.environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            raise BadInput("the hub speaks no WebSocket; follow a channel with EventSource")

    def post(channel: str) -> Response:
        post = Post.from_environ(channel, request.environ)
        origins.check_write(post.host, post.origin, post.site)
        return response(publish(hub, post, body_of(request.environ)))

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
    directly = hub, origins, failed, broken
    return Directly(_Publishing(*directly), _Following(*directly))


class _Directly:
    """What both have in common: how a refusal is answered."""

    def __init__(
        self, hub: Hub, origins: Origins, failed: Callable[[EsourceError], Response],
        broken: Callable[[Exception, str], Response],
    ) -> None:  # fmt: skip
        self._hub = hub
        self._origins = origins
        self._failed = failed
        self._broken = broken

    def _refusal(self, error: Exception, what: str) -> Answer:
        if isinstance(error, EsourceError):
            return self._readable(plain(self._failed(error)))
        return self._readable(plain(self._broken(error, what)))

    def _readable(self, answer: Answer) -> Answer:
        return answer._replace(headers=self._apart(answer.headers))

    def _apart(self, headers: Fields) -> Fields:
        """Return headers by which caches keep an answer apart from those to other origins."""
        more = self._origins.headers(None)
        return [*headers, *more.items()] if more else headers


class _Publishing(_Directly):
    """What answers POSTs: a `post.Publishing`."""

    def plan(self, post: Post) -> Plan | None:
        try:
            self._check(post)
            return plan(self._hub, post)
        except Exception:  # which `whole` meets again, and answers for
            return None

    def begin(
        self, plan: Plan, content: bytes, share: Share, done: Callable[[], None]
    ) -> Receipt | Answer:
        try:
            return queue(self._hub, plan, content, share, done)
        except Exception as error:
            return self._refusal(error, f"POST /{plan.channel}")

    def end(self, plan: Plan, receipt: Receipt) -> Answer:
        try:
            return self._readable(told(plan, receipt.wait()))
        except Exception as error:
            return self._refusal(error, f"POST /{plan.channel}")

    def whole(self, post: Post, body: Body) -> Answer:
        try:
            self._check(post)
            return self._readable(publish(self._hub, post, body))
        except Exception as error:
            return self._refusal(error, f"POST /{post.channel}")

    def _check(self, post: Post) -> None:
        self._origins.check_host(post.host)
        self._origins.check_write(post.host, post.origin, post.site)


class Plain(NamedTuple):
    """A GET that follows, and what it asks for."""

    get: Get
    asked: Asked


class _Following(_Directly):
    """What answers GETs that follow: a `get.Following`."""

    def __init__(self, hub: Hub, *others: Any) -> None:  # noqa: ANN401 -- as above
        super().__init__(hub, *others)
        self._ask = lru_cache(QUERIES)(partial(ask, ignored=hub.config.ignore_parameters))

    def plan(self, get: Get) -> Plain | None:
        try:
            self._origins.check_host(get.host)
            asked = self._ask(get.query, get.accept)
        except Exception:  # which the view meets again, and answers for
            return None
        # Of a person who opens this in a browser the view knows more.
        is_plain = asked.follow and not asked.wanted.moves and "text/html" not in get.accept.lower()
        return Plain(get, asked) if is_plain else None

    def begin(self, plan: Plain, connection: Connection) -> Begun | Answer:
        get, asked = plan
        try:
            begun = follow(self._hub, get, asked, connection)
        except Exception as error:
            return self._refusal(error, f"GET /{get.channel}")
        if isinstance(begun, Begun):
            return begun._replace(headers=self._apart(begun.headers))
        return self._readable(plain(begun))


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
