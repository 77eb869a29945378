"""The parts that all connections of one HTTP filter share."""

from collections.abc import Mapping
from typing import NamedTuple

from agent.sidecar.counters import HttpCounters, ListenerHttpCounters
from agent.sidecar.draining import Draining
from agent.sidecar.http_pool import Pool
from agent.sidecar.model import HttpManager
from agent.sidecar.routing import Routing


class Service(NamedTuple):
    """One HTTP filter: its settings, routes, pools and statistics."""

    settings: HttpManager
    routing: Routing
    pools: Mapping[str, Pool]
    counters: HttpCounters
    listener_counters: ListenerHttpCounters
    draining: Draining

    @property
    def name(self) -> bytes:
        """The value of the `server` header."""
        return self.settings.server_name.encode().strip()

    def answered(self, status: int) -> None:
        """Count the head of a response."""
        for counters in (self.counters, self.listener_counters):
            counters.downstream_rq_completed.add()
            kind = (
                counters.downstream_rq_1xx,
                counters.downstream_rq_2xx,
                counters.downstream_rq_3xx,
                counters.downstream_rq_4xx,
                counters.downstream_rq_5xx,
            )
            kind[min(status // 100, 5) - 1].add()
