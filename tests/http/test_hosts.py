"""Host names that are accepted, by address."""

import pytest

from agent.http.hosts import guarded
from agent.http.message import Request, Response


async def says_yes(_: Request) -> Response:
    return Response(200)


async def status(*hosts: str, local: str | None = "127.0.0.1") -> int:
    headers = tuple(("host", host) for host in hosts)
    return (await guarded(says_yes, {"Proxy.Internal"})(Request("GET", "/status", headers, local=local))).status


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.0.0.1:15020", "[::1]:15020", "[::1]", "192.0.2.7:80", "[fe80::1%25eth0]:1"),
        *("localhost", "LOCALHOST:15020", "localhost.", "proxy.internal:15020", ""),
    ],
)
async def test_unambiguous_host_names_are_accepted(host: str) -> None:
    assert await status(host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:15020",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "[evil]",
        "a:b:c",
        "[]x",
    ],
)
async def test_another_name_is_not_answered_at_a_loopback_address(host: str) -> None:
    for local in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        assert await status(host, local=local) == 421
    assert await status("127.0.0.1", host) == 421, "one of two counts as well"


async def test_other_addresses_have_names_of_their_own() -> None:
    """Prometheus requests a pod by the name of its service discovery."""
    for local in ("10.0.0.7", "2001:db8::1", None):
        assert await status("agent.monitoring.svc", local=local) == 200


async def test_who_names_no_host_is_no_browser() -> None:
    assert await status() == 200


async def test_only_the_header_of_the_host_names_one() -> None:
    headers = (("accept", "text/html"), ("host", "localhost"), ("referer", "http://evil.example/"))
    request = Request("GET", "/status", headers, local="127.0.0.1")
    assert (await guarded(says_yes, ())(request)).status == 200
