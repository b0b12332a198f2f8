"""The verbs of the tests: a real hub in a folder of its own, and what people do to it.

Nothing here stands in for the server, the file or the client: `Hub` is the installed
`esource` on a free port, requests go through sockets, and the file is read with `open`.
One room for each noun: `hub`, `stream`, `follower`, `publisher`, `upload`, `wire`, `pipeline`; what
the `machine` has and how long is `waiting`; `rows` and `measures`; and for some tests `load`,
`nginx`, the shipped `site`s, `own_etc` for what root types, an `encrypted` hub, `network`, `shims`
and the `faults` that publishers meet with them, what is `killed` between two calls or loses its
`power`, and the `attacks` on a hub with what they cost the others (`hostile`), and the hooks of
schemathesis (`coherent`). What most tests use is named here.
"""

from tests.harness.follower import Follower
from tests.harness.hub import QUIET, Answer, Hub, running_hub, started
from tests.harness.machine import ROOT, do_without, free_port, needs, size, some
from tests.harness.publisher import Publisher, Publishers
from tests.harness.rows import AWKWARD, encoded, increases, kept, numbers
from tests.harness.stream import Stream
from tests.harness.upload import Upload, post_chunked, post_whole
from tests.harness.waiting import PATIENCE_SECONDS, eventually
from tests.harness.wire import Wire

__all__ = [
    "AWKWARD", "PATIENCE_SECONDS", "QUIET", "ROOT", "Answer", "Follower", "Hub", "Publisher",
    "Publishers", "Stream", "Upload", "Wire", "do_without", "encoded", "eventually", "free_port",
    "increases", "kept", "needs", "numbers", "post_chunked", "post_whole", "running_hub", "size",
    "some", "started",
]  # fmt: skip
