from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from agent.certificates.contents import Contents
from agent.certificates.discovery import discover
from agent.certificates.findings import Fallback, Fault
from agent.certificates.groups import Pin
from agent.certificates.references import Reference, Role
from agent.certificates.selection import LastGood, select_files
from agent.core.errors import UsageError
from agent.inputs.pairs import DirectoryPairs
from agent.proxies.interface import Proxy
from tests.pki import Algorithm, Authority

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
DAY = timedelta(days=1)
CA = Authority.create("ca")


@dataclass
class Writer:
    """A proxy whose default configuration names what it was asked for."""

    asked: list[object] = field(default_factory=list)

    def default_configuration(
        self,
        listen: tuple[str, int],
        forward: tuple[str, int],
        references: Iterable[Reference],
        names: Mapping[str, Collection[str]],
    ) -> str:
        self.asked.append((listen, forward, {group: tuple(found) for group, found in names.items()}))
        return "".join(f"{each.group} {each.role} {each.path}\n" for each in references)


def pairs(
    writer: Writer | None = None, listen: str = "tcp://[::]:443", forward: str = "tcp://app:80"
) -> DirectoryPairs:
    return DirectoryPairs(cast("Proxy", writer or Writer()), listen, forward)


def pair(
    stem: str, name: str = "a.test", days: tuple[int, int] = (-9, 9), key: Algorithm = "ecdsa"
) -> dict[str, bytes | str]:
    leaf = CA.issue([name], key, NOW + days[0] * DAY, NOW + days[1] * DAY)
    return {f"{stem}.crt": leaf.chain_pem, f"{stem}.key": leaf.key_pem}


def contents(*parts: dict[str, bytes | str]) -> dict[str, bytes]:
    return {path: text if isinstance(text, bytes) else text.encode() for part in parts for path, text in part.items()}


A, B = pair("/c/a"), pair("/c/b", "b.test")


def choose(
    chooser: DirectoryPairs,
    found: Contents,
    served: Collection[str] = (),
    pins: Iterable[Pin] = (),
    now: datetime = NOW,
) -> list[str]:
    """Choose; return the names of the pairs."""
    chooser.choose(discover(found, now), found, served, {pin.group.name: pin for pin in pins}, now)
    assert all(each.role in {Role.CHAIN, Role.KEY} for each in chooser.found)
    return [each.group for each in chooser.found if each.role is Role.CHAIN]


def pinned(found: Contents, name: str, why: str = "key too short") -> Pin:
    """The pin of a pair that the proxy rejected."""
    selection = select_files(discover(found, NOW).references, found, LastGood(), NOW)
    return Pin(selection.groups[name], name, why)


def test_at_first_there_is_nothing() -> None:
    chooser = pairs()
    assert (chooser.found, chooser.unpaired, chooser.beside, chooser.turn) == ([], (), (), None)


def test_every_pair_is_chosen_in_order_and_no_bundle() -> None:
    chooser = pairs()
    assert choose(chooser, contents(B, {"/c/ca.crt": CA.pem}, A)) == ["/c/a.crt", "/c/b.crt"]
    assert chooser.found == [
        Reference("/c/a.crt", Role.CHAIN, "/c/a.crt"),
        Reference("/c/a.key", Role.KEY, "/c/a.crt"),
        Reference("/c/b.crt", Role.CHAIN, "/c/b.crt"),
        Reference("/c/b.key", Role.KEY, "/c/b.crt"),
    ]
    assert (chooser.unpaired, chooser.beside, chooser.turn) == ((), (), None)


def test_an_empty_directory_has_no_pair_and_no_fault() -> None:
    chooser = pairs()
    assert choose(chooser, {}) == []
    assert (chooser.unpaired, chooser.beside) == ((), ())


def test_a_pair_that_has_not_served_goes_with_its_files() -> None:
    chooser = pairs()
    choose(chooser, contents(A, B))
    assert choose(chooser, contents(A)) == ["/c/a.crt"]


@pytest.mark.parametrize("damage", [{"/c/b.key": b"half"}, {"/c/b.key": b""}, {"/c/b.crt": b"\0"}])
def test_a_pair_that_has_served_stays_though_its_files_turn_bad(damage: dict[str, bytes | str]) -> None:
    chooser = pairs()
    choose(chooser, contents(A, B))
    assert choose(chooser, contents(A, B, damage), served={"/c/b.crt"}) == ["/c/a.crt", "/c/b.crt"]
    blamed = {*(each.path for each in chooser.unpaired), *(each.path for each in chooser.beside)}
    assert not blamed & {"/c/b.crt", "/c/b.key"}


def test_a_pair_that_has_served_stays_though_its_files_are_removed() -> None:
    chooser = pairs()
    choose(chooser, contents(A, B))
    assert choose(chooser, contents(A), served={"/c/a.crt", "/c/b.crt"}) == ["/c/a.crt", "/c/b.crt"]
    assert choose(chooser, contents(A), served={"/c/a.crt"}) == ["/c/a.crt"]


def test_the_only_pair_turning_bad_blames_no_file_beside_it() -> None:
    chooser = pairs()
    choose(chooser, contents(A))
    lonely = {"/c/other.crt": B["/c/b.crt"]}
    assert choose(chooser, contents({"/c/a.crt": b"\0"}, lonely), served={"/c/a.crt"}) == ["/c/a.crt"]
    assert chooser.unpaired == ()


def test_beside_a_good_pair_the_halves_of_another_are_refused() -> None:
    chooser = pairs()
    choose(chooser, contents(A, B, {"/c/b.key": b"garbage"}), served={"/c/a.crt"})
    ((path, fallback),) = [(each.path, each.meanwhile) for each in chooser.unpaired]
    assert (path, fallback) == ("/c/b.key", Fallback.OTHERS)


def test_without_any_pair_the_missing_half_is_named() -> None:
    chooser = pairs()
    assert choose(chooser, contents({"/c/a.crt": A["/c/a.crt"]})) == []
    assert [(each.path, each.fault) for each in chooser.unpaired] == [("/c/a.crt", Fault.MISSING)]


def test_an_unused_file_is_beside_the_pairs_unless_a_kept_pair_uses_it() -> None:
    chooser = pairs()
    stray = {"/c/b.crt": B["/c/b.crt"]}
    choose(chooser, contents(A, stray))
    assert [each.path for each in chooser.beside] == ["/c/b.crt"]
    choose(chooser, contents(A, B))
    choose(chooser, contents(A, stray), served={"/c/b.crt"})
    assert chooser.beside == ()


def test_a_pair_that_the_proxy_rejected_before_it_served_is_left_out() -> None:
    chooser, found = pairs(), contents(A, B)
    assert choose(chooser, found, pins=[pinned(found, "/c/b.crt")]) == ["/c/a.crt"]
    ((group, fault, why, fallback),) = [(each.group, each.fault, each.why, each.meanwhile) for each in chooser.unpaired]
    assert (group, fault, why, fallback) == ("/c/b.crt", Fault.PROXY, "key too short", Fallback.OTHERS)


def test_a_rejected_pair_is_chosen_again_when_its_bytes_change() -> None:
    chooser, found = pairs(), contents(A, B)
    renewed = contents(A, pair("/c/b", "b.test"))
    assert choose(chooser, renewed, pins=[pinned(found, "/c/b.crt")]) == ["/c/a.crt", "/c/b.crt"]
    assert chooser.unpaired == ()


def test_a_rejected_pair_that_has_served_is_chosen() -> None:
    chooser, found = pairs(), contents(A, B)
    assert choose(chooser, found, {"/c/b.crt"}, [pinned(found, "/c/b.crt")]) == ["/c/a.crt", "/c/b.crt"]
    assert chooser.unpaired == ()


@pytest.mark.parametrize("served", [(), ("/c/old.crt",)])
def test_an_expired_pair_with_a_substitute_is_left_out_though_it_has_served(served: tuple[str, ...]) -> None:
    chooser = pairs()
    old = pair("/c/old", days=(-20, 1))
    choose(chooser, contents(old, A))
    assert choose(chooser, contents(old, A), served, now=NOW + 2 * DAY) == ["/c/a.crt"]
    ((path, fault, fallback),) = [(each.path, each.fault, each.meanwhile) for each in chooser.unpaired]
    assert (path, fault, fallback) == ("/c/old.crt", Fault.EXPIRED, Fallback.OTHERS)


def test_a_rejected_pair_replaces_no_expired_one() -> None:
    chooser = pairs()
    found = contents(pair("/c/old", days=(-20, -1)), A)
    assert choose(chooser, found, pins=[pinned(found, "/c/a.crt")]) == ["/c/old.crt"]


def test_the_turn_is_when_the_next_certificate_becomes_valid() -> None:
    chooser = pairs()
    choose(chooser, contents(A, pair("/c/next", days=(3, 9))))
    assert chooser.turn == NOW + 3 * DAY
    choose(chooser, contents(A))
    assert chooser.turn is None


def test_the_bootstrap_is_written_over_the_pairs_in_order() -> None:
    writer = Writer()
    chooser = pairs(writer)
    choose(chooser, contents(A, {"/c/\N{SNOWMAN}.crt": B["/c/b.crt"], "/c/\N{SNOWMAN}.key": B["/c/b.key"]}))
    text = chooser.text(reversed(chooser.found))
    assert text.decode().splitlines() == [
        "/c/a.crt certificate chain /c/a.crt",
        "/c/a.crt private key /c/a.key",
        "/c/\N{SNOWMAN}.crt certificate chain /c/\N{SNOWMAN}.crt",
        "/c/\N{SNOWMAN}.crt private key /c/\N{SNOWMAN}.key",
    ]
    names = {"/c/a.crt": ("a.test",), "/c/\N{SNOWMAN}.crt": ("b.test",)}
    assert writer.asked == [(("::", 443), ("app", 80), names)]


@pytest.mark.parametrize(("listen", "forward"), [("nowhere", "tcp://app:80"), ("tcp://[::]:443", "tcp://app:x")])
def test_an_address_that_is_none_is_refused(listen: str, forward: str) -> None:
    with pytest.raises(UsageError, match=r"cannot use the address (nowhere|tcp://app:x)"):
        pairs(listen=listen, forward=forward).text(())
