"""The page for people at `/`: files that the browser gets as they are.

There is nothing to build and nothing to fetch from elsewhere. What the page shows it asks of
the hub by HTTP as every client does, so this room knows neither channels nor events.

    /                the page, for what takes HTML; else some lines of text, for `curl`
    /-/page/FILE     its styles, scripts and icon; `-` is too short to be a channel's name
"""

import hashlib
from pathlib import Path

from flask import Flask, Response, request
from werkzeug.exceptions import NotFound

from esource.web import answers

FOLDER = Path(__file__).parent / "assets"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".txt": answers.TEXT,
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Events are written by strangers. Should one ever get into the page as markup, it stays dead.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # may be kept, must be asked about: the hub may be a newer one
}


def register(app: Flask, with_page: bool) -> None:
    """Put the page's routes into the app; without the page only the text. Reads the files, once."""
    contents = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.is_file()}

    def index() -> Response:
        takes_html = "text/html" in request.environ.get("HTTP_ACCEPT", "").lower()
        response = file("index.html" if with_page and takes_html else "index.txt")
        response.headers["Vary"] = "Accept"
        return response

    def file(name: str) -> Response:
        content = contents.get(name)
        if content is None:
            raise NotFound
        response = answers.answer(content, 200, HEADERS, CONTENT_TYPES[Path(name).suffix])
        response.set_etag(hashlib.sha256(content).hexdigest()[:16])
        response.make_conditional(request.environ)
        return response

    app.add_url_rule("/", view_func=index, methods=["GET"], provide_automatic_options=False)
    if with_page:
        app.add_url_rule(
            "/-/page/<name>", view_func=file, methods=["GET"], provide_automatic_options=False
        )
