from dataclasses import replace
from datetime import timedelta

import pytest

from agent.cli.certs_files import (
    BundleFile,
    ChainFile,
    Finding,
    Inventory,
    Item,
    KeyFile,
    Level,
    ListenerItem,
    Shown,
    Stranger,
)
from agent.cli.certs_view import draw
from agent.status.model import Facts
from tests.cli.sheets import lines, sheet, styled
from tests.status.sample import NOW, facts

ONE, TWO = "tcp://192.0.2.1:443", "tcp://192.0.2.2:443"
DAY = timedelta(days=1)
LEAF = facts("1f02", 60 * DAY)
OTHER = facts("ab03", 3 * DAY, "other.example")


def shown(at: str, name: str, leaf: Facts, *, matches: bool = True) -> Shown:
    return Shown(at, name, leaf.fingerprint, leaf.serial, matches, matches)


def item(**more: object) -> Item:
    plain = Item("web", None, None, (), LEAF, LEAF, in_sync=True, refused="", shown=())
    return replace(plain, **more)  # type: ignore[arg-type]


def inventory(*sets: Item, **more: object) -> Inventory:
    plain = Inventory(NOW, 0, (), sets, (ListenerItem(ONE, "tls", ""),), ())
    return replace(plain, **more)  # type: ignore[arg-type]


def drawn(made: Inventory) -> list[str]:
    return lines(lambda table: draw(made, table))


def row(made: Inventory, word: str) -> list[str]:
    """The values of the rows that begin with a word."""
    return [line.removeprefix(word).strip() for line in drawn(made) if line.startswith(f"{word} ")]


def style_of(made: Inventory, part: str) -> set[str]:
    table = sheet(terminal=True)
    draw(made, table)
    return {style for words, style in styled(table) if part in words}


# Findings


@pytest.mark.parametrize(
    ("made", "words", "others"),
    [
        (inventory(), "no certificate", "set"),
        (inventory(item(shown=(shown(ONE, "", LEAF),))), "1 set", "listener"),
        (inventory(item(), item(shown=(shown(ONE, "", LEAF),))), "2 sets", "listener"),
        (inventory(item()), "listener", "2"),
    ],
)
def test_without_findings_the_first_line_is_ok(made: Inventory, words: str, others: str) -> None:
    first = drawn(made)[0]
    assert (first.startswith("ok"), words in first, others in first) == (True, True, False)
    assert style_of(made, "ok") == {"bold green"}


def test_each_finding_is_a_line_and_the_first_is_bold() -> None:
    found = (Finding(Level.CRITICAL, "web", "it ended"), Finding(Level.WARNING, ONE, "it \x1b[2J ends"))
    made = inventory(item(), level=2, findings=found)
    assert drawn(made)[:2] == ["critical: web: it ended", f"warning: {ONE}: it ?[2J ends"]
    assert (style_of(made, "critical"), style_of(made, "warning")) == ({"bold red"}, {"yellow"})
    assert style_of(inventory(level=1, findings=found[1:]), "warning") == {"bold yellow"}


# A set


def test_a_set_is_shown_with_everything_about_its_certificate() -> None:
    made = drawn(inventory(item()))
    assert made[1:10] == [
        "",
        "web",
        "subject CN=web.example",
        "names DNS:web.example",
        "spiffe id spiffe://example/web.example",
        "issuer CN=a test authority",
        "serial 1F02",
        "valid 2026-04-04 12:00:00Z to 2026-07-03 12:00:00Z, 60 days left",
        "key type ECDSA P-256",
    ]


def test_what_a_certificate_does_not_have_is_not_shown() -> None:
    bare = replace(LEAF, subject="", names=(), spiffe_id=None)
    made = inventory(item(disk=bare, served=bare))
    assert (row(made, "subject"), row(made, "names"), row(made, "spiffe id")) == (["none"], [], [])


@pytest.mark.parametrize(
    ("left", "style", "word"),
    [
        (timedelta(days=15), "", ""),
        (timedelta(days=13), "yellow", "(soon)"),
        (timedelta(days=1), "red", "(urgent)"),
        (-timedelta(seconds=1), "red", "ended"),
    ],
)
def test_the_end_of_a_certificate_has_its_colour_and_its_word(left: timedelta, style: str, word: str) -> None:
    ended = facts("1f02", left)
    made = inventory(item(disk=ended, served=ended))
    assert style_of(made, " to ") == ({style} if style else set())
    assert word in " ".join(row(made, "valid"))


def test_what_serves_is_shown_where_it_differs_from_the_disk() -> None:
    assert row(inventory(item()), "serves") == []
    assert row(inventory(item(served=None)), "serves") == []
    (text,) = row(inventory(item(served=OTHER)), "serves")
    assert [part in text for part in ("AB03", "2026-05-07 12:00Z", "3 days left")] == [True] * 3
    made = inventory(item(disk=None))
    assert (len(row(made, "serves")), row(made, "subject")) == (1, [])


@pytest.mark.parametrize(
    ("file", "words", "style"),
    [
        (ChainFile("/c/tls.crt", 1, True, LEAF), ["/c/tls.crt", "1 certificate"], None),
        (ChainFile("/c/tls.crt", 3, True, LEAF), ["3 certificates"], None),
        (ChainFile("/c/tls.crt", 3, False, LEAF), ["3 certificates", "order"], "yellow"),
        (ChainFile("/c/tls.crt", problem="cannot use it"), ["cannot use it"], "red"),
        (ChainFile("/c/tls.crt", problem="not for you", readable=False), ["not for you"], "yellow"),
    ],
)
def test_a_chain_is_shown(file: ChainFile, words: list[str], style: str | None) -> None:
    made = inventory(item(chain=file))
    (text,) = row(made, "chain")
    assert all(word in text for word in words)
    assert ("order" in text) is not file.in_order
    assert style_of(made, words[0]) == ({style} if style else set())


@pytest.mark.parametrize(
    ("file", "text", "style"),
    [
        (KeyFile("/c/tls.key", fits=True), "/c/tls.key: fits", None),
        (KeyFile("/c/tls.key", fits=False, problem="cannot use it"), "cannot use it", "red"),
        (KeyFile("/c/tls.key", problem="not for you", readable=False), "not for you", "yellow"),
    ],
)
def test_a_key_is_shown(file: KeyFile, text: str, style: str | None) -> None:
    made = inventory(item(key=file))
    assert row(made, "key")[-1] == text
    assert style_of(made, text) == ({style} if style else set())


def test_a_key_of_which_nothing_is_known_is_not_said_to_fit() -> None:
    assert row(inventory(item(key=KeyFile("/c/tls.key"))), "key")[-1] != "/c/tls.key: fits"


@pytest.mark.parametrize(
    ("lefts", "words", "others"),
    [
        ([5], ["/c/ca.crt", "1 authority", "2026-05-09 12:00Z"], ["first", "expired"]),
        ([5, 9], ["2 authorities", "first", "2026-05-09 12:00Z"], ["expired"]),
        ([5, -1, -2], ["3 authorities", "2 expired"], ["2026"]),
        ([0], ["1 authority", "2026-05-04 12:00Z"], ["expired"]),
        ([9] * 1200, ["1,200 authorities"], ["expired"]),
    ],
)
def test_a_bundle_is_shown_with_its_first_end(lefts: list[int], words: list[str], others: list[str]) -> None:
    bundle = BundleFile("/c/ca.crt", tuple(facts("1", left * DAY) for left in lefts))
    (text,) = row(inventory(item(bundles=(bundle,))), "bundle")
    assert all(word in text for word in words)
    assert not any(word in text for word in others)


@pytest.mark.parametrize(("readable", "style"), [(True, "red"), (False, "yellow")])
def test_a_bundle_with_a_problem_is_shown_by_it(readable: bool, style: str) -> None:
    made = inventory(
        item(bundles=(BundleFile("/c/ca.crt", problem="no use", readable=readable), BundleFile("/d", (LEAF,))))
    )
    assert [text.partition(":")[0] for text in row(made, "bundle")] == ["no use", "/d"]
    assert style_of(made, "no use") == {style}


# Who serves it

CHAIN = ChainFile("/c/tls.crt", 1, True, LEAF)


def test_each_listener_is_shown_once_with_the_names_it_was_asked_for() -> None:
    made = inventory(
        item(
            chain=CHAIN,
            shown=(
                shown(ONE, "", LEAF), shown(ONE, "a.test", LEAF),
                shown(TWO, "b.test", LEAF), shown(TWO, "c.test", LEAF),
                shown(TWO, "d.test", OTHER, matches=False),
            ),
        )
    )  # fmt: skip
    first, second, third = row(made, "shown by")
    assert (first.startswith(f"{ONE}:"), "a.test" in first, "1F02" in first) == (True, False, False)
    assert second.startswith(f"{TWO} for b.test, c.test:")
    assert (third.startswith(f"{TWO} for d.test:"), "AB03" in third) == (True, True)
    assert [style_of(made, part) for part in (ONE, "b.test", "d.test")] == [{"green"}, {"green"}, {"red"}]


def test_the_same_leaf_with_other_issuers_is_named_so() -> None:
    made = inventory(item(chain=CHAIN, shown=(shown(ONE, "", LEAF, matches=False),)))
    (text,) = row(made, "shown by")
    assert "1F02 with other issuers" in text
    (text,) = row(inventory(item(chain=CHAIN, disk=None, shown=(shown(ONE, "", LEAF, matches=False),))), "shown by")
    assert "issuers" not in text


def test_a_set_that_no_listener_serves_is_said_so_only_if_it_has_a_chain_and_listeners_were_asked() -> None:
    assert len(row(inventory(item(chain=CHAIN)), "shown by")) == 1
    assert row(inventory(item()), "shown by") == []
    assert row(inventory(item(chain=CHAIN), listeners=()), "shown by") == []


# Other listeners


def test_listeners_without_a_certificate_of_ours_are_shown_at_the_end() -> None:
    listeners = (ListenerItem(ONE, "tls", ""), ListenerItem(TWO, "silent", "no answer"))
    stranger = Stranger(ONE, "x", OTHER)
    made = drawn(inventory(item(), listeners=listeners, strangers=(stranger,)))
    assert made[-2] == f"{TWO} silent: no answer"
    assert all(word in made[-1] for word in (ONE, "CN=other.example", "AB03"))
    assert (made[-4], made.count("web")) == ("", 1)
    assert len(drawn(inventory(item(), listeners=listeners))) == len(made) - 1
    assert len(drawn(inventory(item(), strangers=(stranger,)))) == len(made) - 1
    assert len(drawn(inventory(item()))) == len(made) - 4
