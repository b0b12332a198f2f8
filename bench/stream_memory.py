"""How much memory a stream takes while it is sent: SPEC, section 6.

    python -m bench.stream_memory [BYTES]

Sends BYTES (1 GB) of lines of 65 bytes as one chunked POST with `each=line` to a hub of its
own, without fsync, and prints at every tenth what the worker has now and had at most. A bound
that holds is flat in the second half.
"""

import re
import sys
import tempfile
import time
from pathlib import Path

from tests.harness import running_hub
from tests.test_batch import Upload


def main(size: int) -> None:
    lines = b"".join(b"%064d\n" % n for n in range(16_000))
    steps = max(10, size // len(lines))
    with (
        tempfile.TemporaryDirectory() as folder,
        running_hub(Path(folder), ESOURCE_FSYNC="never") as hub,
    ):
        hub.publish("/stream?id=begin", "x")

        def show(sent: int) -> None:
            status = Path(f"/proc/{hub.worker}/status").read_text()
            now, peak = (
                int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) / 1000
                for name in ("VmRSS", "VmHWM")
            )
            seconds = time.monotonic() - started
            print(f"{sent / 1e6:8.0f} MB {seconds:6.1f} s   now {now:6.1f} MB, peak {peak:6.1f} MB")

        started = time.monotonic()
        show(0)
        with Upload(hub, "/stream?each=line") as upload:
            for n in range(1, steps + 1):
                upload.send(lines)
                if n % (steps // 10) == 0:
                    show(n * len(lines))
            upload.connection.settimeout(None)
            print(upload.end().text.strip())
        show(steps * len(lines))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000_000)
