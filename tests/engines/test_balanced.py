"""The nginx of `docs/engines.md` in front of two hubs on one engine, of which one is killed."""

import re
from pathlib import Path

from tests.harness import ROOT, Follower, eventually, free_port
from tests.harness.engine import engine_hubs
from tests.harness.hub import answer_on
from tests.harness.nginx import running_nginx
from tests.harness.postgres import shared_postgres
from tests.harness.proxies import Proxy

CHANNELS = [f"balanced-{n}" for n in range(8)]


def site(ports: list[int], port: int) -> str:
    """Return the configuration of the page, with our addresses."""
    page = (ROOT / "docs" / "engines.md").read_text()
    text: str
    [text] = re.findall(r"^```nginx\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for number, hub_port in enumerate(ports, 1):
        text = text.replace(f"10.0.0.{number}:9000", f"127.0.0.1:{hub_port}")
    assert "10.0.0." not in text
    return text.replace("listen 80", f"listen 127.0.0.1:{port}")


def test_clients_of_a_hub_that_dies_go_on_at_another(tmp_path: Path) -> None:
    server = shared_postgres()
    server.do("DROP SCHEMA IF EXISTS esource CASCADE")
    port = free_port()
    with engine_hubs(tmp_path, server.url()) as hubs:
        text = site([hub.port for hub in hubs], port)
        with running_nginx(tmp_path, text, port):
            door = Proxy(hubs[0], port)
            followers = [Follower(door, channel).start() for channel in CHANNELS]
            sent: dict[str, list[bytes]] = {channel: [] for channel in CHANNELS}

            def publish(number: int) -> None:
                for channel in CHANNELS:
                    data = b"%d" % number
                    path = f"/{channel}?id=event-{number}&unique=1"

                    def is_there(path: str = path, data: bytes = data) -> bool:
                        return answer_on(door.connect(), "POST", path, data).status in (200, 201)

                    eventually(is_there)
                    sent[channel].append(data)

            try:
                for number in range(5):
                    publish(number)
                counts = [
                    int(re.findall(r"esource_subscribers (\d+)", hub.get("/-/metrics").text)[0])
                    for hub in hubs
                ]
                assert all(counts), "each hub has some of the channels"
                hubs[0].kill()
                for number in range(5, 10):
                    publish(number)
                eventually(lambda: [each.data for each in followers] == list(sent.values()))
                for channel in CHANNELS:
                    assert hubs[1].get(f"/{channel}").body.count(b"\n") == 10
            finally:
                for follower in followers:
                    follower.stop()
