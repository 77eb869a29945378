import pytest

from agent.http.message import Request
from agent.status.health import Health


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "reason", "status", "said"),
    [
        ("/healthz/live", "", 200, b"the loop turns\n"),
        ("/healthz/live", "no epoch serves", 200, b"the loop turns\n"),
        ("/healthz/ready", "", 200, b"ready\n"),
        ("/healthz/ready?verbose", "", 200, b"ready\n"),
        ("/healthz/ready", "no epoch serves", 503, b"no epoch serves\n"),
        ("/healthz", "", 404, b"not found\n"),
        ("/", "", 404, b"not found\n"),
    ],
)
async def test_health_has_the_reason(method: str, path: str, reason: str, status: int, said: bytes) -> None:
    response = await Health(lambda: reason).answer(Request(method, path))
    assert (response.status, response.body) == (status, said)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_health_takes_no_orders(method: str) -> None:
    response = await Health(lambda: "").answer(Request(method, "/healthz/ready"))
    assert response.status == 405
    assert ("allow", "GET, HEAD") in response.headers
