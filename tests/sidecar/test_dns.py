import asyncio
import socket
from typing import Any

import pytest

from agent.sidecar.clusters import Upstream
from agent.sidecar.dns import Resolver
from agent.sidecar.model import Address, Cluster, Pipe, SocketAddress
from agent.stats.writer import Writer
from tests.sidecar.leaping import now
from tests.sidecar.wires import counted

pytestmark = pytest.mark.usefixtures("leaps")

V4, V6, ANY = socket.AF_INET, socket.AF_INET6, socket.AF_UNSPEC


class Stand:
    """A resolver, and the answers of the system's resolver by name and family; an exception is raised."""

    def __init__(self, *endpoints: Address, **fields: object) -> None:
        self.answers: dict[tuple[str, int], list[str] | Exception] = {}
        self.asked: list[tuple[str, int]] = []
        self.stats = Writer.private()
        self.upstream = Upstream(Cluster("c", "STRICT_DNS", endpoints)._replace(**fields), self.stats)  # type: ignore[arg-type]
        self.resolver = Resolver(self.upstream)
        asyncio.get_running_loop().getaddrinfo = self._getaddrinfo  # type: ignore[method-assign, assignment]

    async def _getaddrinfo(self, host: str, port: object, *, family: int, type: int) -> list[Any]:  # noqa: A002
        assert (port, type) == (None, socket.SOCK_STREAM)
        self.asked.append((host, family))
        answer = self.answers.get((host, family), socket.gaierror(socket.EAI_NONAME, "unknown"))
        if isinstance(answer, Exception):
            raise answer
        return [(V4, socket.SOCK_STREAM, 6, "", (each, 0)) for each in answer]

    def hosts(self) -> list[str]:
        return [str(each) for each in self.upstream.endpoints]

    def counted(self) -> dict[str, int]:
        return counted(self.stats, "cluster.c.update_")


def at(host: str, port: int = 80) -> SocketAddress:
    return SocketAddress(host, port)


async def test_names_become_all_their_addresses_in_order() -> None:
    it = Stand(at("b", 2), at("a", 1), Pipe("/x"), at("b", 2), at("b", 3), dns_family="V4_ONLY")
    it.answers = {("a", V4): ["10.0.0.2", "10.0.0.1", "10.0.0.2"], ("b", V4): ["10.0.0.9"]}
    await it.resolver.first()
    assert it.hosts() == ["10.0.0.9:2", "10.0.0.1:1", "10.0.0.2:1", "/x", "10.0.0.9:3"]
    assert sorted(it.asked) == [("a", V4), ("b", V4)], "each name once"
    assert it.counted() == {"attempt": 2, "success": 2}
    assert counted(it.stats, "cluster.c.membership_") == {"change": 1, "total": 5, "healthy": 5}
    await it.resolver.close()


@pytest.mark.parametrize(
    ("family", "known", "asked", "found"),
    [
        ("V4_ONLY", [V4, V6], [V4], "4"),
        ("V6_ONLY", [V4, V6], [V6], "6"),
        ("V4_PREFERRED", [V4, V6], [V4], "4"),
        ("V4_PREFERRED", [V6], [V4, V6], "6"),
        ("AUTO", [V4, V6], [V6], "6"),
        ("AUTO", [V4], [V6, V4], "4"),
        ("ALL", [ANY], [ANY], "0"),
        ("V4_ONLY", [V6], [V4], ""),
        ("SOMETHING", [V4], [V6, V4], "4"),
    ],
)
async def test_a_family_decides_what_is_asked(family: str, known: list[int], asked: list[int], found: str) -> None:
    it = Stand(at("a"), dns_family=family)
    it.answers = {("a", each): [{V4: "4", V6: "6", ANY: "0"}[each]] for each in known}  # type: ignore[index]
    await it.resolver.first()
    assert it.asked == [("a", each) for each in asked]
    assert it.hosts() == ([f"{found}:80"] if found else [])
    assert it.counted() == ({"attempt": 1, "success": 1} if found else {"attempt": 1, "failure": 1, "no_rebuild": 1})
    await it.resolver.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_number_is_asked_of_nobody(host: str) -> None:
    it = Stand(at(host))
    await it.resolver.first()
    assert (it.asked, it.upstream.endpoints) == ([], (at(host),))
    await it.resolver.close()


async def test_a_name_is_asked_again_at_the_refresh_rate() -> None:
    it = Stand(at("a"), dns_family="V4_ONLY", dns_refresh_rate=30.0)
    it.answers = {("a", V4): ["10.0.0.1"]}
    await it.resolver.first()
    await asyncio.sleep(29)
    assert it.counted()["attempt"] == 1
    it.answers = {("a", V4): ["10.0.0.2"]}
    await asyncio.sleep(2)
    assert it.hosts() == ["10.0.0.2:80"]
    await asyncio.sleep(30)
    assert it.counted() == {"attempt": 3, "success": 3, "no_rebuild": 1}
    await it.resolver.close()


@pytest.mark.parametrize(
    "error", [socket.gaierror(socket.EAI_AGAIN, "again"), UnicodeError("label too long"), OSError("x")]
)
async def test_the_last_good_answer_stays_in_use(error: Exception) -> None:
    it = Stand(at("a"), at("b"), dns_family="V4_ONLY", dns_refresh_rate=1.0)
    it.answers = {("a", V4): ["10.0.0.1"], ("b", V4): ["10.0.0.2"]}
    await it.resolver.first()
    it.answers = {("a", V4): error, ("b", V4): ["10.0.0.3"]}
    await asyncio.sleep(1.5)
    assert it.hosts() == ["10.0.0.1:80", "10.0.0.3:80"]
    assert it.counted() == {"attempt": 4, "success": 3, "failure": 1}
    await it.resolver.close()


async def test_a_first_failure_leaves_the_cluster_empty_and_is_tried_again() -> None:
    it = Stand(at("a"), dns_family="V4_ONLY", dns_refresh_rate=1.0)
    await it.resolver.first()
    assert it.hosts() == []
    it.answers = {("a", V4): ["10.0.0.1"]}
    await asyncio.sleep(1.5)
    assert it.hosts() == ["10.0.0.1:80"]
    await it.resolver.close()


async def test_an_answer_without_addresses_is_one() -> None:
    it = Stand(at("a"), dns_family="V4_PREFERRED")
    it.answers = {("a", V4): [], ("a", V6): ["::1"]}
    await it.resolver.first()
    assert it.hosts() == []
    assert it.counted() == {"attempt": 1, "success": 1, "no_rebuild": 1}
    await it.resolver.close()


async def test_closing_ends_it() -> None:
    it = Stand(at("a"), dns_refresh_rate=1.0)
    await it.resolver.close()
    await it.resolver.first()
    await it.resolver.close()
    asked = len(it.asked)
    await asyncio.sleep(10)
    assert len(it.asked) == asked
    assert now() == 10
