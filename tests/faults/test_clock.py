"""The clock steps, and default ids keep increasing."""

import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.harness import Hub, Stream, increases
from tests.harness.shims import Build, Clock

HOUR = 3600


@pytest.mark.parametrize("restart", [False, True])
def test_default_ids_increase_when_the_clock_steps_back_and_forward(
    tmp_path: Path, shim: Build, restart: bool
) -> None:
    hub = Hub(tmp_path)
    clock = Clock(hub, shim("clock"))
    hub.folder.mkdir()
    ids = []
    hub.start()
    try:
        for step in (0, -HOUR, HOUR, 0, -24 * HOUR, 2 * HOUR, -2 * HOUR):
            clock.jump(step)
            if restart:
                hub.kill()
                hub.start()
            before = time.time() + step
            ids += [hub.publish("/orders", f"{step} {n}") for n in range(20)]
            # While the clock is ahead, ids are the time that it shows.
            if step > 0 or not ids[20:]:
                seen = datetime.fromisoformat(ids[-1].replace("Z", "+00:00")).timestamp()
                assert 0 <= seen - before < 20
        assert sorted(set(ids)) == ids
        with Stream(hub, "/orders", Last_Event_ID=ids[49]) as stream:
            assert [event.id.decode() for event in stream.read(len(ids) - 50)] == ids[50:]
            clock.jump(-HOUR)  # a live reader and its heartbeats, too
            ids.append(hub.publish("/orders", "live"))
            assert stream.read(len(ids) - 50)[-1].id.decode() == ids[-1]
    finally:
        hub.stop()
    numbers = [int(text.translate({ord(c): "" for c in "-:TZ."})) for text in ids]
    assert increases(numbers)


def test_timers_do_not_follow_the_wall_clock(tmp_path: Path, shim: Build) -> None:
    hub = Hub(tmp_path, ESOURCE_HEARTBEAT_SECONDS="0.3")
    clock = Clock(hub, shim("clock"))
    hub.folder.mkdir()
    hub.start()
    try:
        with Stream(hub, "/orders?timeout=2") as stream:
            started = time.monotonic()
            clock.jump(-HOUR)
            stream.read_until(b":\n:\n:\n")
            clock.jump(HOUR)
            stream.read_to_end()
            assert 1.5 < time.monotonic() - started < 6
    finally:
        hub.stop()
