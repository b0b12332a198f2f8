"""How large and how long: one frozen table, and three of its rows."""

import itertools
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Scale:
    """What varies between a full run and a quick one."""

    rounds: int
    seconds: float  # of each take that is not a fixed amount of work
    warm_up_seconds: float
    requests: int  # of `ab`
    connections: tuple[int, ...]  # of publishers
    crowd: int  # connections that publish for the first time at once
    subscribers: tuple[int, ...]  # of the fan-out
    sizes: tuple[int, ...]  # bytes of an event
    listeners: tuple[int, ...]  # of the latencies
    tail: int  # subscribers while single events are published
    tail_publishes: int  # such events
    many: int  # subscribers, as many as a hub is to hold
    idle: tuple[int, ...]  # subscribers that get nothing
    megabytes: tuple[int, ...]  # of a channel that is read
    searches: int  # in a channel that is mapped
    histories: tuple[int, ...]  # megabytes of a channel in which places are looked for
    hubs: tuple[int, ...]  # on one engine
    files: tuple[int, ...]  # in the folder at the start
    channels: tuple[int, ...]  # written at once
    beside: tuple[int, int]  # busy channels, and bytes of a batch, beside a lone publisher
    behind: tuple[int, ...]  # connections of publishers to nginx
    counting: tuple[int, int]  # publishers, and subscribers, with and without counters
    upload: tuple[int, ...]  # megabytes of one chunked body
    ingest: tuple[int, ...]  # bytes of an event
    batch: int  # bytes of a body of declared length
    families: int  # of hostile clients
    attack: float  # times as long as an attack takes to do harm
    back: tuple[int, ...]  # followers that come back at once, or are sent away
    connects: int  # followers that connect
    again: tuple[int, int]  # followers that come back to a channel of so many megabytes


FULL = Scale(
    rounds=3,
    seconds=2.0,
    warm_up_seconds=0.5,
    requests=20_000,
    connections=(1, 10, 100, 1000),
    crowd=1000,
    subscribers=(1, 100, 1000, 10_000),
    sizes=(128, 692),
    listeners=(1, 100, 1000),
    tail=5000,
    tail_publishes=1000,
    many=50_000,
    idle=(100, 1000, 10_000),
    megabytes=(10, 100, 1000),
    searches=50,
    histories=(100, 1000, 10_000),
    hubs=(1, 2, 3),
    files=(100, 1000, 10_000),
    channels=(1, 100, 1000, 10_000),
    beside=(1000, 62 << 20),
    behind=(1, 10, 100),
    counting=(100, 1000),
    upload=(100, 1000),
    ingest=(100, 1000),
    batch=1 << 25,
    families=100,
    attack=1.0,
    back=(4000, 10_000),
    connects=4000,
    again=(1000, 120),
)
QUICK = Scale(
    rounds=1,
    seconds=0.7,
    warm_up_seconds=0.2,
    requests=4000,
    connections=(1, 100, 1000),
    crowd=1000,
    subscribers=(1, 1000),
    sizes=(128, 692),
    listeners=(1, 100, 1000),
    tail=1000,
    tail_publishes=60,
    many=10_000,
    idle=(1000,),
    megabytes=(50,),
    searches=50,
    histories=(100,),
    hubs=(1, 2, 3),
    files=(1000,),
    channels=(1, 1000),
    beside=(1000, 62 << 20),
    behind=(1, 10, 100),
    counting=(100, 1000),
    upload=(100,),
    ingest=(100,),
    batch=1 << 25,
    families=100,
    attack=1.0,
    back=(4000,),
    connects=4000,
    again=(1000, 120),
)
# For the test that the benchmark still runs: its figures mean nothing.
TINY = Scale(
    rounds=1,
    seconds=0.3,  # on a busy machine wrk takes a tenth of one to be able to end
    warm_up_seconds=0.3,
    requests=200,
    connections=(5,),
    crowd=20,
    subscribers=(5,),
    sizes=(128,),
    listeners=(5,),
    tail=5,
    tail_publishes=5,
    many=20,
    idle=(20,),
    megabytes=(1,),
    searches=2,
    histories=(10,),
    hubs=(2,),
    files=(20,),
    channels=(10,),
    beside=(10, 1 << 20),
    behind=(5,),
    counting=(5, 5),
    upload=(2,),
    ingest=(100,),
    batch=1 << 20,
    families=1,
    attack=0.3,
    back=(20,),
    connects=20,
    again=(20, 1),
)
SCALES = {"full": FULL, "quick": QUICK, "tiny": TINY}


@dataclass(frozen=True)
class Bench:
    """What a workload is given: a folder of its own, and how large it shall be."""

    home: Path
    scale: Scale


_serial = itertools.count()


def fresh(name: str) -> str:
    """Return the path of a channel that nobody has used yet."""
    return f"/{name}-{next(_serial)}"
