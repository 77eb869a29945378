from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from agent.certificates.x509 import Leaf as Known
from agent.certificates.x509 import leaf_of_chain
from agent.cli.certs_compare import compare
from agent.cli.certs_files import BundleFile, ChainFile, Files, Inventory, KeyFile, Level, ListenerItem
from agent.cli.certs_listeners import Answer, Kind, Listener
from agent.status.model import Blocked, CertificateSet, EpochView, Facts, Status
from tests.pki import Authority, Leaf

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
ROOT = Authority.create("the root")
BELOW = ROOT.intermediate("the one below")
A, B, C = (BELOW.issue(["a.test", "b.test"], serial=serial) for serial in (0x1A, 0x1B, 0x1C))
OTHER = BELOW.issue(["other.test"], serial=0xFE)
ONE, TWO = "tcp://192.0.2.1:443", "tcp://192.0.2.2:443"
NO_FILES = Files(None, None, ())


def known(leaf: Leaf) -> Known:
    return leaf_of_chain(tuple(x509.load_pem_x509_certificates(leaf.chain_pem)))


def facts(leaf: Leaf) -> Facts:
    return Facts.of(known(leaf))


def with_life(before: timedelta, after: timedelta, serial: int = 0x1D) -> Leaf:
    return BELOW.issue(["a.test"], not_before=NOW + before, not_after=NOW + after, serial=serial)


def a_set(served: Leaf | None, disk: Leaf | None, name: str = "web", **more: object) -> CertificateSet:
    one, other = (None if leaf is None else facts(leaf) for leaf in (served, disk))
    plain = CertificateSet(name, "/c/tls.crt", "/c/tls.key", one, other)
    return replace(plain, **{"in_sync": served is disk, **more})  # type: ignore[arg-type]


def status(*sets: CertificateSet, **more: object) -> Status:
    plain = Status(NOW, "1", 1, NOW, True, "", "", 7, (), sets)
    return replace(plain, **more)  # type: ignore[arg-type]


def shows(*answers: tuple[str, Leaf], at: str = ONE) -> Listener:
    return Listener(at, Kind.TLS, tuple(Answer(name, known(leaf)) for name, leaf in answers))


def judged(told: Status, *listeners: Listener, files: Files = NO_FILES, least: timedelta | None = None) -> Inventory:
    return compare(told, {each.name: files for each in told.certificates}, listeners, least)


def found(inventory: Inventory) -> list[tuple[Level, str]]:
    return [(each.level, each.about) for each in inventory.findings]


# The inventory


def test_of_nothing_there_is_nothing_to_say() -> None:
    assert judged(status()) == Inventory(NOW, 0, (), (), (), ())


def test_the_files_that_were_read_here_count_before_what_the_agent_says_of_the_disk() -> None:
    chain = ChainFile("/c/tls.crt", 2, True, facts(B))
    key, bundle = KeyFile("/c/tls.key", fits=True), BundleFile("/c/ca.crt", (facts(A),))
    (item,) = judged(status(a_set(A, A)), files=Files(chain, key, (bundle,))).sets
    assert (item.chain, item.key, item.bundles) == (chain, key, (bundle,))
    assert (item.disk, item.served, item.in_sync, item.refused) == (facts(B), facts(A), True, "")


@pytest.mark.parametrize("chain", [None, ChainFile("/c/tls.crt", problem="not for you", readable=False)])
def test_where_nothing_could_be_read_here_the_agents_word_counts(chain: ChainFile | None) -> None:
    (item,) = judged(status(a_set(A, B)), files=Files(chain, None, ())).sets
    assert item.disk == facts(B)


def test_a_chain_that_is_unusable_is_no_certificate_on_the_disk() -> None:
    chain = ChainFile("/c/tls.crt", problem="cannot use /c/tls.crt: it is empty")
    (item,) = judged(status(a_set(A, A)), files=Files(chain, None, ())).sets
    assert item.disk is None


def test_every_listener_is_in_the_inventory() -> None:
    silent = Listener(TWO, Kind.SILENT, why="no answer in time")
    inventory = judged(status(a_set(A, A)), shows(("", A)), silent)
    assert inventory.listeners == (ListenerItem(ONE, "tls", ""), ListenerItem(TWO, "silent", "no answer in time"))


# Which set a served leaf belongs to


def test_a_leaf_belongs_to_the_set_that_has_it_on_disk_or_serves_it() -> None:
    first, second = a_set(A, A, "first"), a_set(B, C, "second")
    inventory = judged(status(first, second), shows(("", A), ("x", B), ("y", C)))
    assert [[(each.name, each.serial) for each in item.shown] for item in inventory.sets] == [
        [("", "1a")], [("x", "1b"), ("y", "1c")],
    ]  # fmt: skip
    assert [(each.matches, each.serves) for each in inventory.sets[1].shown] == [(False, True), (True, False)]


def test_another_leaf_belongs_to_the_first_set_with_one_of_its_names() -> None:
    odd = BELOW.issue(["other.test", "b.test"], serial=0x77)
    inventory = judged(status(a_set(OTHER, OTHER, "first"), a_set(A, A, "second")), shows(("", odd)))
    assert [[each.serial for each in item.shown] for item in inventory.sets] == [["77"], []]
    assert inventory.strangers == ()


@pytest.mark.parametrize("item", [a_set(OTHER, None), a_set(None, OTHER)])
def test_the_names_of_what_serves_and_of_the_disk_count(item: CertificateSet) -> None:
    odd = BELOW.issue(["other.test"], serial=0x77)
    assert [each.serial for each in judged(status(item), shows(("", odd))).sets[0].shown] == ["77"]


def test_a_leaf_of_no_set_is_a_stranger() -> None:
    inventory = judged(status(a_set(A, A), a_set(None, None, "empty")), shows(("", A)), shows(("x", OTHER), at=TWO))
    assert [(each.address, each.name, each.leaf) for each in inventory.strangers] == [(TWO, "x", facts(OTHER))]
    assert inventory.level == Level.OK


def test_an_expired_leaf_of_no_set_is_critical_once_for_each_listener() -> None:
    ended = BELOW.issue(["other.test"], not_after=NOW - SECOND, serial=0xED)
    listeners = [shows(("", ended), ("x", ended), ("y", OTHER), at=at) for at in (ONE, TWO)]
    inventory = judged(status(), *listeners)
    assert found(inventory) == [(Level.CRITICAL, ONE), (Level.CRITICAL, TWO)]
    assert all("ed" in each.message for each in inventory.findings)


def test_a_leaf_of_no_set_that_ends_now_has_not_expired() -> None:
    assert judged(status(), shows(("", BELOW.issue(["x.test"], not_after=NOW)))).level == Level.OK


# Life


@pytest.mark.parametrize(
    ("before", "after", "least", "level"),
    [
        (-9 * DAY, DAY, None, Level.OK),
        (-9 * DAY, DAY - SECOND, None, Level.WARNING),
        (-9 * DAY, DAY, DAY, Level.OK),
        (-9 * DAY, DAY - SECOND, DAY, Level.WARNING),
        (-9 * DAY, SECOND, timedelta(), Level.OK),
        (-9 * DAY, timedelta(), timedelta(), Level.OK),
        (-9 * DAY, -SECOND, timedelta(), Level.CRITICAL),
        (timedelta(), 9 * DAY, None, Level.OK),
        (SECOND, 9 * DAY, None, Level.CRITICAL),
        (-9 * DAY, 90 * DAY, 91 * DAY, Level.WARNING),
    ],
    ids=str,
)
def test_the_life_that_is_left_is_judged(
    before: timedelta, after: timedelta, least: timedelta | None, level: Level
) -> None:
    leaf = with_life(before, after)
    inventory = judged(status(a_set(leaf, leaf)), least=least)
    assert inventory.level == level
    assert found(inventory) == ([] if level is Level.OK else [(level, "web")])
    assert all("serial 1d" in each.message for each in inventory.findings)
    if inventory.findings and before <= timedelta():
        assert ("ended " in inventory.findings[0].message) is (after < timedelta())


@pytest.mark.parametrize(
    ("served", "disk", "level"),
    [
        (A, with_life(-9 * DAY, -DAY), Level.OK),
        (with_life(-9 * DAY, -DAY), A, Level.CRITICAL),
        (None, with_life(-9 * DAY, -DAY), Level.CRITICAL),
        (None, None, Level.OK),
    ],
)
def test_what_serves_is_judged_and_the_disk_only_if_nothing_serves(
    served: Leaf | None, disk: Leaf | None, level: Level
) -> None:
    assert judged(status(a_set(served, disk, in_sync=True))).level == level


# Files


def test_every_unusable_file_is_a_warning_and_an_unreadable_one_is_none() -> None:
    chain = ChainFile("/c/tls.crt", problem="cannot use /c/tls.crt")
    key = KeyFile("/c/tls.key", problem="cannot use /c/tls.key")
    bundles = (
        BundleFile("/c/1", problem="cannot use /c/1"),
        BundleFile("/c/2"),
        BundleFile("/c/3", problem="no", readable=False),
    )
    inventory = judged(status(a_set(A, A)), files=Files(chain, key, bundles))
    assert [each.message for each in inventory.findings] == [
        "cannot use /c/tls.crt", "cannot use /c/tls.key", "cannot use /c/1",
    ]  # fmt: skip
    assert found(inventory) == [(Level.WARNING, "web")] * 3


def test_a_refusal_of_the_agent_is_the_only_warning_about_files() -> None:
    chain = ChainFile("/c/tls.crt", problem="cannot use /c/tls.crt")
    inventory = judged(status(a_set(A, A, refused="the agent refuses it")), files=Files(chain, None, ()))
    assert [(each.level, each.message) for each in inventory.findings] == [(Level.WARNING, "the agent refuses it")]


# What listeners serve

CANDIDATE = EpochView(8, "candidate", "waiting", "r", 1, NOW, NOW)
SERVING = EpochView(7, "serving", "serving", "r", 1, NOW, NOW)


@pytest.mark.parametrize(
    ("told", "listeners", "expected", "words"),
    [
        (status(a_set(A, A)), [shows(("", A))], [], []),
        (status(a_set(A, A)), [], [], []),
        (status(a_set(A, B)), [shows(("", B))], [(Level.WARNING, "web")], []),
        (status(a_set(A, B)), [shows(("", A))], [(Level.CRITICAL, "web")], [ONE, "serial 1a"]),
        (status(a_set(A, A)), [shows(("", C))], [(Level.CRITICAL, "web")], [ONE, "serial 1c", "serial 1a"]),
        (status(a_set(None, A)), [shows(("", B))], [(Level.CRITICAL, "web")], [ONE, "serial 1b"]),
        (
            status(a_set(A, B), blocked=(Blocked.JITTER, Blocked.DRAINS)),
            [shows(("", A))],
            [(Level.WARNING, "web")],
            ["jitter, drains"],
        ),
        (status(a_set(A, B), blocked=(Blocked.REFUSED_BY_PROXY,)), [], [(Level.WARNING, "web")], ["refused by proxy"]),
        (status(a_set(A, B), epochs=(SERVING, CANDIDATE)), [shows(("", A))], [(Level.WARNING, "web")], ["epoch"]),
        (status(a_set(A, B), epochs=(SERVING,)), [shows(("", A))], [(Level.CRITICAL, "web")], [ONE]),
        (status(a_set(A, B, refused="no")), [shows(("", A))], [(Level.WARNING, "web")], ["no"]),
        (status(a_set(A, B)), [], [(Level.WARNING, "web")], ["disk"]),
        (status(a_set(A, B, refused="no")), [], [(Level.WARNING, "web")], ["no"]),
        (status(a_set(A, A, in_sync=False)), [shows(("", A))], [(Level.WARNING, "web")], ["disk"]),
        (status(a_set(A, A), blocked=(Blocked.PAUSED,)), [shows(("", A))], [], []),
        (
            status(a_set(A, B), blocked=(Blocked.PAUSED,)),
            [shows(("", A)), shows(("", C), at=TWO)],
            [(Level.CRITICAL, "web"), (Level.WARNING, "web")],
            [TWO, "serial 1c"],
        ),
    ],
    ids=[
        "the disk serves", "no listener", "newer than the agent says", "older without a reason", "neither of the two",
        "the agent says that nothing serves", "waits", "waits unseen", "a candidate", "no candidate", "refused",
        "no reason and no listener", "refused and no listener", "out of sync though the same", "paused in vain",
        "a reason for one of two",
    ],
)  # fmt: skip
def test_another_certificate_than_that_on_the_disk_needs_a_reason(
    told: Status, listeners: list[Listener], expected: list[tuple[Level, str]], words: list[str]
) -> None:
    inventory = judged(told, *listeners)
    assert found(inventory) == expected
    assert inventory.level == max((level for level, _ in expected), default=Level.OK)
    assert all(word in inventory.findings[0].message for word in words)


def test_a_wrong_certificate_is_reported_once_for_each_listener() -> None:
    listeners = [shows(("", C), ("a.test", C), ("b.test", C), at=at) for at in (ONE, TWO)]
    assert found(judged(status(a_set(A, A)), *listeners)) == [(Level.CRITICAL, "web")] * 2


def test_the_issuers_that_are_sent_count_and_additional_ones_do_not() -> None:
    alone, whole = replace(A, chain_pem=A.certificate_pem), A
    more = replace(A, chain_pem=A.chain_pem + ROOT.pem)
    renewed = replace(A, chain_pem=A.certificate_pem + ROOT.intermediate("the one below", BELOW.key).pem)
    shown = [judged(status(a_set(whole, whole)), shows(("", each))).sets[0].shown[0] for each in (more, alone, renewed)]
    assert [(each.matches, each.serves) for each in shown] == [(True, True), (False, False), (False, False)]
    assert judged(status(a_set(alone, alone)), shows(("", renewed))).level == Level.OK
    (finding,) = judged(status(a_set(whole, whole)), shows(("", renewed))).findings
    assert "issuers" in finding.message


@pytest.mark.parametrize(
    ("kind", "hung", "level"),
    [
        (Kind.UNREACHABLE, False, Level.CRITICAL),
        (Kind.UNREACHABLE, True, Level.CRITICAL),
        (Kind.SILENT, True, Level.CRITICAL),
        (Kind.SILENT, False, Level.OK),
        (Kind.PLAINTEXT, True, Level.OK),
        (Kind.NOT_ASKED, True, Level.OK),
        (Kind.TLS, True, Level.OK),
    ],
)
def test_a_listener_that_cannot_be_reached_is_critical(kind: Kind, hung: bool, level: Level) -> None:
    inventory = judged(status(hung=hung), Listener(ONE, kind, why="refused"))
    assert [(each.level, each.about, each.message) for each in inventory.findings] == (
        [(Level.CRITICAL, ONE, "refused")] if level is Level.CRITICAL else []
    )


def test_the_worst_finding_comes_first_and_equal_ones_keep_their_order() -> None:
    soon, ended = with_life(-9 * DAY, SECOND, 1), with_life(-9 * DAY, -SECOND, 2)
    sets = [a_set(soon, soon, "w1"), a_set(ended, ended, "c1"), a_set(soon, soon, "w2"), a_set(ended, ended, "c2")]
    inventory = judged(status(*sets), Listener(ONE, Kind.UNREACHABLE, why="refused"))
    assert [each.about for each in inventory.findings] == ["c1", "c2", ONE, "w1", "w2"]
    assert (inventory.level, type(inventory.level)) == (2, int)
