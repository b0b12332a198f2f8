"""Where an HTTP message of declared length ends. For both sides: requests and answers."""

import re

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def whole(received: bytes) -> int:
    """Return how many bytes the first message takes; 0 while some of it is still to come.

    Without a declared length its body is empty.
    """
    head = received.find(_END) + len(_END)
    if head < len(_END):
        return 0
    length = _LENGTH.search(received, 0, head)
    size = head + int(length[1]) if length else head
    return size if size <= len(received) else 0
