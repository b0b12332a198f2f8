"""A copy next to what a hub has: by length and digest, or byte by byte.

    the copy    |-- its files, at their offsets --------|
    the hub        |-- what it keeps ------------------------|
                   |-- compared ------------------------|-- missing

What a hub says of its offsets is in the `ETag`, whose second part is the end.
"""

import base64
import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from esource.check import Finding
from esource.errors import StorageError
from esource.log import disk, segments
from esource.log.disk import FLAGS
from esource.log.reading import BLOCK_BYTES

TIMEOUT_SECONDS = 60.0
MIB = 1 << 20
ETAG = re.compile(r'(?:W/)?"[0-9a-f]+-([0-9a-f]+)(?:-[0-9a-f]+)?"')


class Kept(NamedTuple):
    """What a hub has of a channel."""

    start: int  # offsets
    end: int
    digest: bytes  # the SHA-256; empty if it is not known


class Hub:
    """What is asked of a hub; all that fails is a `StorageError`."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        """Name it; nothing is asked yet."""
        self.url = url
        self._headers = headers

    def channels(self) -> dict[str, int]:
        """Return the names of its channels, and their ends."""
        found: dict[str, int] = {}
        after: str | None = ""
        while after is not None:
            asked = urlencode({"format": "json", "limit": 1000, "after": after})
            with self._open("GET", f"/-/channels?{asked}") as answer:
                try:
                    page = json.load(answer)
                    found |= {str(each["name"]): int(each["bytes"]) for each in page["channels"]}
                    after = page["next"]
                except (ValueError, TypeError, KeyError):
                    raise StorageError(f"{self.url} is no hub: it lists no channels") from None
        return found

    def kept(self, channel: str) -> Kept:
        """Return what it has of a channel now."""
        with self._open("HEAD", f"/{channel}", {"Want-Repr-Digest": "sha-256=1"}) as answer:
            return self._kept(channel, answer)

    def _kept(self, channel: str, answer: http.client.HTTPResponse) -> Kept:
        headers = answer.headers
        etag = ETAG.fullmatch(headers.get("ETag", ""))
        if not etag:
            raise StorageError(f"{self.url}/{channel} is no channel of a hub: it has no such ETag")
        end = int(etag[1], 16)
        digest = re.fullmatch(r"sha-256=:(.*):", headers.get("Repr-Digest", ""))
        found = base64.b64decode(digest[1]) if digest else b""
        return Kept(end - int(headers.get("Content-Length", "0")), end, found)

    def read(self, channel: str, kept: Kept, start: int, stop: int) -> Iterator[bytes]:
        """Yield what it has between two offsets, all of it."""
        fields = {} if kept.start else {"Range": f"bytes={start}-{stop - 1}"}
        with self._open("GET", f"/{channel}", fields) as answer:
            if answer.status != http.client.PARTIAL_CONTENT:
                skip = start - self._kept(channel, answer).start
                if skip < 0:
                    raise StorageError(f"{self.url}/{channel} was trimmed meanwhile; try again")
                while skip and (block := answer.read(min(skip, BLOCK_BYTES))):
                    skip -= len(block)
            while start < stop and (block := answer.read(min(stop - start, BLOCK_BYTES))):
                yield block
                start += len(block)
            if start < stop:
                raise StorageError(f"{self.url}/{channel} ended before byte {stop}; try again")

    def _open(
        self, method: str, path: str, fields: Mapping[str, str] = {}
    ) -> http.client.HTTPResponse:
        headers = {"Accept": "text/tab-separated-values", **self._headers, **fields}
        request = urllib.request.Request(self.url + path, headers=headers, method=method)
        try:
            answer: http.client.HTTPResponse = urllib.request.urlopen(
                request, timeout=TIMEOUT_SECONDS
            )
            return answer
        except urllib.error.HTTPError as error:
            text = error.read(200).decode(errors="replace").strip().partition("\n")[0]
            why = f"{error.code} {text}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = str(getattr(error, "reason", error))
        raise StorageError(f"cannot read {self.url}{path}: {why}")


def compare(
    folder: Path, channel: str, hub: Hub, progress: Callable[[Path, int, int], None],
    known: Mapping[str, list[int]] | None = None,
) -> Iterator[Finding]:  # fmt: skip
    """Yield how the copy of a channel in a folder is not what a hub has.

    `known` is as for `segments.files`.
    """
    copy = _Copy(folder, channel, segments.files(folder, channel, known))
    kept = hub.kept(channel)
    if not copy.files:
        if kept.end > kept.start:
            text = f"the hub has {kept.end - kept.start} bytes, and the copy none"
            yield Finding(copy.name, 0, "missing", text)
        return
    if copy.start > kept.start:
        text = f"it begins at byte {copy.start}, and the hub at {kept.start}"
        yield Finding(copy.name, 0, "missing", text)
    if copy.end < kept.end:
        text = f"the hub has {kept.end - copy.end} bytes more at the end"
        yield Finding(copy.name, 0, "missing", text)
    if copy.end > kept.end:
        text = f"it has {copy.end - kept.end} bytes more at the end than the hub"
        yield Finding(copy.name, 0, "more", text)
    start, stop = max(copy.start, kept.start), min(copy.end, kept.end)
    if start >= stop:
        return
    if (copy.start, copy.end) == (kept.start, kept.end):
        digest = copy.digest(progress)
        kept = kept if kept.digest else hub.kept(channel)  # it may have come to know it
        if kept.digest == digest and kept.end == copy.end:
            return
    same = start
    for block in hub.read(channel, kept, start, stop):
        ours = copy.pread(same, len(block))
        if ours != block:
            pairs = enumerate(zip(ours, block, strict=False))
            same += next((at for at, (one, other) in pairs if one != other), len(ours))
            break
        same += len(block)
        progress(folder / copy.name, same, stop)
    if same < stop:
        path, offset = copy.place(same)
        text = f"it differs from the hub's from byte {offset} on, in its MiB {offset // MIB}"
        yield Finding(path.name, 0, "differs", text)


class _Copy:
    """The history that is in a folder, as far as it is whole rows now."""

    def __init__(self, folder: Path, channel: str, files: list[tuple[int, Path]]) -> None:
        self.name = segments.plain_path(folder, channel).name
        closed, _ = segments.run(folder, channel, [start for start, _ in files])
        self.files = [(segment.offset, segment.path) for segment in closed] + files[-1:]
        self.start = self.end = 0
        if self.files:
            self.start, (last, path) = self.files[0][0], self.files[-1]
            fd = os.open(path, os.O_RDONLY | FLAGS)
            try:
                self.end = last + disk.whole_rows(fd, 0, os.fstat(fd).st_size)
            finally:
                os.close(fd)

    def place(self, offset: int) -> tuple[Path, int]:
        """Return the file that has the byte at an offset, and where in it."""
        start, path = max(file for file in self.files if file[0] <= offset)
        return path, offset - start

    def pread(self, offset: int, size: int) -> bytes:
        """Return the bytes at an offset, up to the end."""
        found = b""
        while (left := min(offset + size, self.end) - offset - len(found)) > 0:
            path, at = self.place(offset + len(found))
            stops = [start for start, _ in self.files if start > offset + len(found)]
            if stops:
                left = min(left, stops[0] - offset - len(found))
            with path.open("rb") as file:
                file.seek(at)
                piece = file.read(left)
            if not piece:
                break
            found += piece
        return found

    def digest(self, progress: Callable[[Path, int, int], None]) -> bytes:
        """Return the SHA-256 of all of it."""
        digest, offset = sha256(), self.start
        while block := self.pread(offset, BLOCK_BYTES):
            digest.update(block)
            offset += len(block)
            progress(Path(self.name), offset, self.end)
        return digest.digest()
