import pytest

from agent.http.message import Request
from agent.stats.snapshot import Snapshot
from agent.status.statistics import Statistics

SNAPSHOT = Snapshot({"http.inbound.downstream_rq_total": 7, "cluster.app.upstream_cx_total": 3}, {"server.live": 1}, 0)


@pytest.mark.parametrize(
    ("target", "status", "said"),
    [
        ("/stats", 200, b"cluster.app.upstream_cx_total: 3\nhttp.inbound.downstream_rq_total: 7\nserver.live: 1\n"),
        ("/stats?filter=_rq_", 200, b"http.inbound.downstream_rq_total: 7\n"),
        ("/stats?filter=%5Eserver", 200, b"server.live: 1\n"),
        ("/stats?filter=_cx_&filter=_rq_", 200, b"http.inbound.downstream_rq_total: 7\n"),
        (
            "/stats?usedonly",
            200,
            b"cluster.app.upstream_cx_total: 3\nhttp.inbound.downstream_rq_total: 7\nserver.live: 1\n",
        ),
        ("/stats?filter=nothing", 200, b""),
        ("/stats?filter=(", 400, b"cannot use the filter: missing ), unterminated subpattern at position 0\n"),
    ],
)
async def test_statistics_are_sorted_by_name(target: str, status: int, said: bytes) -> None:
    response = await Statistics(lambda: SNAPSHOT).answer(Request("GET", target))
    assert (response.status, response.body) == (status, said)
