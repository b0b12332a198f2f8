"""Where a follower has got to, in a file: replaced as a whole, and on disk when `save` returns."""

import json
import os
from pathlib import Path

from esource.errors import Unusable


class Cursor:
    """The id, or the place, of the last event that was done with; empty if there is none.

    The file holds a line of JSON, which names the URL, too: a cursor is good for one.
    """

    def __init__(self, path: Path | None, url: str) -> None:
        """Read the file, if there is one; raise `Unusable` if it is none, or another URL's."""
        self.id = b""
        self._path = path
        self._url = url
        self._saved = b""
        if not path:
            return
        try:
            text = path.read_text()
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise Unusable(f"{path.parent} is not a folder") from None
            return
        try:
            kept = json.loads(text)
            of, id = str(kept["url"]), str(kept["id"])
        except (ValueError, TypeError, KeyError):
            raise Unusable(f"{path} is no cursor: it is not of the form of one") from None
        if of != url:
            raise Unusable(f"{path} is the cursor of {of}, not of {url}")
        self.id = self._saved = id.encode("utf-8", "surrogateescape")

    def save(self) -> None:
        """Have the file say what `id` is; it is on disk on return. Nothing to do costs nothing."""
        if not self._path or self.id == self._saved:
            return
        kept = {"url": self._url, "id": self.id.decode("utf-8", "surrogateescape")}
        new = self._path.with_name(f".{self._path.name}.new")
        with open(new, "w") as file:
            file.write(json.dumps(kept) + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._saved = self.id
