import pytest

from agent.sidecar.counters import HttpCounters, ListenerHttpCounters
from agent.sidecar.draining import Draining
from agent.sidecar.http_service import Service
from agent.sidecar.model import HttpManager
from agent.sidecar.routing import Routing
from agent.stats.writer import Writer
from tests.sidecar.wires import counted


def service(stats: Writer, server_name: str = "envoy") -> Service:
    settings = HttpManager("h", server_name=server_name)
    counters, of_listener = HttpCounters(stats, "http.h."), ListenerHttpCounters(stats, "listener.l.http.h.")
    return Service(settings, Routing(()), {}, counters, of_listener, Draining(1, immediate=False))


@pytest.mark.parametrize(
    ("status", "kind"),
    [(100, "1xx"), (199, "1xx"), (200, "2xx"), (299, "2xx"), (301, "3xx"), (404, "4xx"), (500, "5xx"), (599, "5xx"),
     (600, "5xx"), (999, "5xx")],
)  # fmt: skip
def test_a_response_is_counted_by_its_kind_for_filter_and_listener(status: int, kind: str) -> None:
    stats = Writer.private()
    service(stats).answered(status)
    assert counted(stats) == {
        "http.h.downstream_rq_completed": 1,
        f"http.h.downstream_rq_{kind}": 1,
        "listener.l.http.h.downstream_rq_completed": 1,
        f"listener.l.http.h.downstream_rq_{kind}": 1,
    }


@pytest.mark.parametrize(
    ("given", "sent"),
    [("envoy", b"envoy"), ("agént", b"ag\xc3\xa9nt"), ("日本", b"\xe6\x97\xa5\xe6\x9c\xac"), (" a b ", b"a b")],
)
def test_a_name_becomes_a_header_value(given: str, sent: bytes) -> None:
    assert service(Writer.private(), given).name == sent
