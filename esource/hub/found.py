"""The places of ids in one log: looked for once for all that want the same, and remembered.

    a thousand with one id ──► one search ──► its place, for each of them
                                         └──► remembered: for those that come later

After a restart a crowd comes back, and most of it has the same id. A search reads the log, in the
one thread for that, so a thousand of them would take a thousand times as long as one.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

import gevent

from esource.errors import again
from esource.hub.view import View
from esource.hub.work import ClientLeft, Work, look_seconds
from esource.rows.find import Verdict

PLACES = 1024  # that are remembered, of all logs: an id is what a stranger sends, of up to a KiB

Place: TypeAlias = tuple[int, Verdict]  # an offset, and how it was found
Look: TypeAlias = Callable[[View, bytes, Work], Place]
# The id, where the log begins, and for a place that later rows may change, where the view ends. (A
# log may also get rows back that were removed, and the first event with an id counts.)
_Key: TypeAlias = tuple[bytes, int, int | None]


class _Shared(Work):
    """A search for several clients, which ends with the last of them."""

    def __init__(self, look: Look, view: View, id: bytes) -> None:
        super().__init__()
        self.clients = 0
        self.found: Place | None = None
        self.error: Exception | None = None
        self.greenlet = gevent.spawn(self._be, look, view, id)

    def check(self) -> None:
        if not self.clients:
            raise ClientLeft("all clients of a search have closed their sending sides")

    def _be(self, look: Look, view: View, id: bytes) -> None:
        """Be the greenlet, which goes on though the reader that asked first is ended."""
        try:
            self.found = look(view, id, self)
        except Exception as error:
            self.error = error

    def wait(self, work: Work) -> Place:
        """Return what was found. Blocks; raises what the search raises, and `work.check`."""
        self.clients += 1
        try:
            while not self.greenlet.ready():
                self.greenlet.join(look_seconds(self.clients))
                work.check()
        finally:
            self.clients -= 1
        if self.error:
            raise again(self.error)
        assert self.found
        return self.found


_places: "OrderedDict[tuple[Found, _Key], Place]" = OrderedDict()


class Found:
    """The places that were found in one log."""

    def __init__(self) -> None:
        """Begin with none."""
        self._sought: dict[_Key, _Shared] = {}

    def after(self, view: View, id: bytes, work: Work, look: Look) -> Place:
        """Return what `look` says of an id in a view, for the client of `work`.

        Blocks, if it is not known. Raises what `look` raises, and `ClientLeft`.
        """
        key: _Key = id, view.log.begin, view.end
        for known in (key, (*key[:2], None)):
            place = _places.get((self, known))
            if place and place[0] <= view.end:
                _places.move_to_end((self, known))
                return place
        shared = self._sought.get(key)
        if shared is None:
            shared = self._sought[key] = _Shared(look, view, id)
        try:
            place = shared.wait(work)
        finally:
            if not shared.clients and self._sought.get(key) is shared:
                del self._sought[key]
        if place[1] is Verdict.EXACT:  # whatever comes later, the first event with an id stays it
            key = *key[:2], None
        _places[self, key] = place
        if len(_places) > PLACES:
            _places.popitem(last=False)
        return place
