"""Workload: one hostile client, and what it costs the others. The clients are the tests' own."""

from functools import partial

from bench.cpu import Busy
from bench.figures import Case, Cases, Sample
from bench.scale import Bench
from bench.servers import HUB, place
from tests.harness import Hub
from tests.harness.attacks import ATTACKS, MIB
from tests.harness.hostile import FAMILIES, attack, attacked_hub
from tests.harness.measures import p99


def hostile(bench: Bench) -> Cases:
    """Attack the hub with one client, as fast as it can: ms p99 of others, publish and delivery.

    `ms worst` is the longest that one of them waited, `MB more` how far the hub's memory grew.
    """

    def take(name: str, hub: Hub) -> Sample:
        assert hub.process is not None
        with Busy(hub.process.pid) as busy:
            measured = attack(name, hub, ATTACKS[name].seconds * bench.scale.attack)
        figures = {
            "ms publish p99": p99(measured.publishes) * 1e3,
            "ms delivery p99": p99(measured.deliveries) * 1e3,
            "ms worst": measured.worst * 1e3,
            "MB more": measured.grown / MIB,
        }
        return Sample(figures, busy.server, busy.generator)

    for family in list(FAMILIES)[: bench.scale.families]:
        names = [name for name, hostile in ATTACKS.items() if hostile.family == family]
        with attacked_hub(family, place(bench.home)) as hub:
            for name in names:
                yield Case(name, 1, {HUB.name: partial(take, name, hub)})
