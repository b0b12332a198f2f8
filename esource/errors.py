"""What can go wrong, and the HTTP status that says so.

Raised where the fact is known, turned into an answer in one place (`views`).
The text is for a person: one line, what was wrong and what to do.
"""


class EsourceError(Exception):
    """Base of everything that esource raises on purpose; `headers` go into the answer."""

    status = 500

    def __init__(self, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.headers = headers

    def again(self) -> "EsourceError":
        """Return another of the same: several greenlets may have to raise one error."""
        return type(self)(str(self), self.headers)


class BadInput(EsourceError):
    """The request cannot be stored or served as it is; nothing was changed."""

    status = 400


class Forbidden(EsourceError):
    """A page of an origin that is not allowed; nothing was done."""

    status = 403


class Misdirected(EsourceError):
    """The request is for another host than the hub's."""

    status = 421


class Busy(EsourceError):
    """A limit is reached; later it may work."""

    status = 503


class TooLarge(EsourceError):
    """The body is over its limit; nothing was stored."""

    status = 413


class BadRange(EsourceError):
    """The range that is asked for is beyond the end."""

    status = 416


class Unsupported(EsourceError):
    """A charset or content coding that the hub cannot decode."""

    status = 415


class StorageError(EsourceError):
    """The file cannot be read or written now; nothing was acknowledged."""

    status = 503


class StorageFull(StorageError):
    """No space left (or over quota); the file is as it was before."""

    status = 507


class LogStale(StorageError):
    """The file is not as its log left it: removed, replaced, cut, or appended to by others."""


class StartError(EsourceError):
    """The hub cannot start; the text is the one line that the operator sees."""


class PreconditionFailed(EsourceError):
    """Somebody else has appended since; nothing was stored. Read, decide, and try again."""

    status = 412


class Conflict(EsourceError):
    """The id is that of an event with other content; nothing was stored."""

    status = 409
