"""What can go wrong, and the HTTP status that says so.

Raised where the fact is known, turned into an answer in one place (`views`).
The text is for a person: one line, what was wrong and what to do. It may hold what a client or a
file says: `printable` makes it fit for a terminal.
"""

from typing import Protocol


def printable(text: str, kept: str = "") -> str:
    """Return a text for a terminal or a log: what moves a cursor, ends a line or hides is escaped.

    But for the characters that are `kept`.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in kept else ascii(char)[1:-1] for char in text
    )


class Versioned(Protocol):
    """Rows that have a name (see `esource.hub.view`)."""

    @property
    def version(self) -> str:
        """What tells them from all others."""


class EsourceError(Exception):
    """Base of everything that esource raises on purpose."""

    status = 500

    def __init__(self, text: str, *facts: object) -> None:
        super().__init__(text, *facts)
        self.text = text

    def __str__(self) -> str:
        return self.text

    def again(self) -> "EsourceError":
        """Return another of the same: several greenlets may have to raise one error."""
        return self.with_text(self.text)

    def with_text(self, text: str) -> "EsourceError":
        """Return another with the same facts and another text."""
        return type(self)(text, *self.args[1:])


def again(error: Exception) -> Exception:
    """Return what one of several greenlets is to raise for an error of a call that they share."""
    return error.again() if isinstance(error, EsourceError) else error


class BadInput(EsourceError):
    """The request cannot be stored or served as it is; nothing was changed."""

    status = 400


class Forbidden(EsourceError):
    """A page of an origin that is not allowed; nothing was done."""

    status = 403


class Misdirected(EsourceError):
    """The request is for another host than the hub's."""

    status = 421


class Missing(EsourceError):
    """There is nothing of that name, though there could be."""

    status = 404


class Unusable(EsourceError):
    """A command line, or a file that it names, makes no sense."""


class Busy(EsourceError):
    """A limit is reached; after `seconds` it may work."""

    status = 503

    def __init__(self, text: str, seconds: int) -> None:
        super().__init__(text, seconds)
        self.seconds = seconds


class TooLarge(EsourceError):
    """The body is over its limit; nothing was stored."""

    status = 413


class TooSlow(EsourceError):
    """The body did not arrive at the least rate; nothing was stored."""

    status = 408


class BadRange(EsourceError):
    """The range that is asked for is beyond the end, which is at byte `size`."""

    status = 416

    def __init__(self, text: str, size: int) -> None:
        super().__init__(text, size)
        self.size = size


class Unsupported(EsourceError):
    """A charset or content coding that the hub cannot decode."""

    status = 415


class StorageError(EsourceError):
    """The file cannot be read or written now; nothing was acknowledged."""

    status = 503


class StorageFull(StorageError):
    """No space left (or over quota); the file is as it was before."""

    status = 507


class StartError(EsourceError):
    """The hub cannot start; the text is the one line that the operator sees."""


class PreconditionFailed(EsourceError):
    """Others have appended since; nothing was stored. Read, decide, and try again.

    `view` is that for which it does not hold, if it was asked of one. Not its version: that of a
    file which is only being made is not known before the commit.
    """

    status = 412

    def __init__(self, text: str, view: Versioned | None = None) -> None:
        super().__init__(text, view)
        self.view = view


class Conflict(EsourceError):
    """The id is that of an event with other content; nothing was stored."""

    status = 409
