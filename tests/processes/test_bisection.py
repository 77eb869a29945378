"""The groups at fault are identified, whatever the proxy reports about them, and no other group is blamed."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.certificates.groups import CertificateGroup
from agent.certificates.references import Reference, Role
from agent.processes.bisection import NothingToRunError, bisect
from agent.proxies.interface import Complaint


def unit(name: str, content: bytes | None = None) -> CertificateGroup:
    """Return a group of one file."""
    reference = Reference(f"/c/{name}", Role.OTHER, name)
    return CertificateGroup(name, frozenset({reference}), {reference.path: content or name.encode()}, (), ())


class Proxy:
    """Refuses some groups; `names`: whether it names a file of the first one. Counts the validations."""

    def __init__(self, culprits: set[str], *, names: bool) -> None:
        self.culprits = culprits
        self.names = names
        self.asked = 0

    def complaint(self, held: frozenset[str]) -> Complaint | None:
        """Return its message about the others."""
        bad = sorted(self.culprits - held)
        if not bad:
            return None
        return Complaint(f"no {bad[0]}", frozenset({f"/c/{bad[0]}"})) if self.names else Complaint("no")

    async def ask(self, held: frozenset[str]) -> Complaint | None:
        """Validate once more."""
        self.asked += 1
        return self.complaint(held)


def accused(proxy: Proxy, units: list[CertificateGroup]) -> set[str]:
    """Return the blamed groups."""
    first = proxy.complaint(frozenset())
    assert first is not None
    return {pin.unit.name for pin in asyncio.run(bisect(units, first, proxy.ask))}


@given(st.integers(1, 60), st.data())
def test_without_a_name_every_group_at_fault_is_identified_and_no_other(count: int, data: st.DataObject) -> None:
    names = [f"{number:02}" for number in range(count)]
    culprits = data.draw(st.sets(st.sampled_from(names), min_size=1, max_size=3))
    proxy = Proxy(culprits, names=False)
    assert accused(proxy, [unit(name) for name in names]) == culprits
    assert proxy.asked <= 2 + 2 * len(culprits) * count.bit_length()


def test_a_name_is_believed_without_another_question() -> None:
    proxy = Proxy({"b", "c"}, names=True)
    assert accused(proxy, [unit("a"), unit("b"), unit("c")]) == {"b"}, "the next attempt tells of the other one"
    assert proxy.asked == 0


def test_the_same_bytes_under_another_name_are_as_bad() -> None:
    """Memory is shared by content: the name may be that of either."""
    proxy = Proxy({"b"}, names=True)
    assert accused(proxy, [unit("a", b"same"), unit("b", b"same"), unit("c")]) == {"a", "b"}


def test_what_fails_without_the_new_groups_too_is_not_their_fault() -> None:
    proxy = Proxy({"the configuration"}, names=False)
    assert accused(proxy, [unit("a"), unit("b")]) == set()


@pytest.mark.parametrize("names", [True, False])
def test_no_group_is_blamed_without_a_new_one(names: bool) -> None:
    assert accused(Proxy({"a"}, names=names), []) == set()


async def test_what_cannot_be_held_back_is_not_accused() -> None:
    async def ask(_: frozenset[str]) -> Complaint | None:
        raise NothingToRunError

    assert await bisect([unit("a")], Complaint("no"), ask) == ()
