"""A web hook by `curl`, as docs/follow.md shows it, to a receiver that does what receivers do."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.harness import Hub, eventually, needs
from tests.harness.client import run

# What the receiver does with an event, one after the other; then all is well.
HANGS = 0


class Receiver(ThreadingHTTPServer):
    """Somebody's service."""

    daemon_threads = True

    def __init__(self, *answers: int, **fields: str) -> None:
        super().__init__(("127.0.0.1", 0), Hook)
        self.answers, self.fields = list(answers), fields
        self.seen: list[tuple[float, str, bytes]] = []  # when, the event's id, its data
        self.ended = threading.Event()

    @property
    def ids(self) -> list[str]:
        return [id for _, id, _ in self.seen]


class Hook(BaseHTTPRequestHandler):
    """One request."""

    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((time.monotonic(), self.headers["Event-Id"], body))
        status = self.server.answers.pop(0) if self.server.answers else 204
        if status == HANGS:
            self.server.ended.wait(60)
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in self.server.fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def receiving(*answers: int, **fields: str) -> Iterator[Receiver]:
    """A receiver that gives these answers first."""
    with Receiver(*answers, **fields) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        try:
            yield receiver
        finally:
            receiver.ended.set()
            receiver.shutdown()


def hook(receiver: Receiver, *more: str) -> str:
    """Return the command for an event."""
    needs("curl")
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    words = ["curl -fsS --retry 2 --max-time 2", *more, '-H "Event-Id: $EVENT_ID"']
    return " ".join([*words, f"--data-binary @- {url}"])


def test_a_receiver_that_fails_gets_it_again_and_all_in_order(hub: Hub, tmp_path: Path) -> None:
    for n in range(3):
        hub.publish(f"/hook-fails?id={n}", f"event {n}\nof two lines")
    with receiving(500, 503, 204, 502) as receiver:
        words = ("--cursor", tmp_path / "cursor", "--limit", 3, "--exec", hook(receiver))
        assert run("follow", f"{hub.url}/hook-fails", *words).returncode == 0
    assert receiver.ids == ["0", "0", "0", "1", "1", "2"]
    assert receiver.seen[-1][2] == b"event 2\nof two lines"


def test_a_receiver_that_hangs_is_given_up_and_asked_again(hub: Hub) -> None:
    hub.publish("/hook-hangs?id=1", "x")
    with receiving(HANGS) as receiver:
        command = hook(receiver).replace("--retry 2 --max-time 2", "--max-time 1")
        words = ("--limit", 1, "--exec", command)
        assert run("follow", f"{hub.url}/hook-hangs", *words).returncode == 0
        assert receiver.ids == ["1", "1"]


def test_a_receiver_that_says_when_is_asked_then(hub: Hub) -> None:
    hub.publish("/hook-later?id=1", "x")
    with receiving(429, Retry_After="2") as receiver:
        words = ("--limit", 1, "--exec", hook(receiver))
        assert run("follow", f"{hub.url}/hook-later", *words).returncode == 0
    assert receiver.ids == ["1", "1"]
    assert receiver.seen[1][0] - receiver.seen[0][0] >= 1.9


def test_what_a_receiver_refuses_for_good_is_with_the_dead_and_the_next_one_goes_on(
    hub: Hub, tmp_path: Path
) -> None:
    hub.publish("/hook-refused?id=bad&event=paid", "x")
    hub.publish("/hook-refused?id=good", "y")
    with receiving(400, 400) as receiver:
        words = (
            "--cursor",
            tmp_path / "cursor",
            "--limit",
            2,
            "--tries",
            2,
            "--dead",
            "dead-hooks",
        )
        done = run("follow", f"{hub.url}/hook-refused", *words, "--exec", hook(receiver))
        assert done.returncode == 0
    assert receiver.ids == ["bad", "bad", "good"]
    eventually(lambda: hub.rows("dead-hooks") == [b"bad\tpaid\tx"])


def test_without_a_place_for_the_dead_it_ends_and_the_next_start_tries_again(
    hub: Hub, tmp_path: Path
) -> None:
    hub.publish("/hook-ends?id=bad", "x")
    words = ("follow", f"{hub.url}/hook-ends", "--cursor", tmp_path / "cursor", "--limit", 1)
    with receiving(410) as receiver:
        done = run(*words, "--tries", 1, "--exec", hook(receiver))
        assert (done.returncode, "'bad'" in done.stderr) == (1, True)
        assert run(*words, "--tries", 1, "--exec", hook(receiver)).returncode == 0
    assert receiver.ids == ["bad", "bad"]
