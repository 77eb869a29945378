"""The certificates of `agent status`: their order, their colours, and how few lines many of them take."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from agent.cli.status_certificates import by_urgency, draw, endings
from agent.status.model import Authorities, CertificateSet, Facts
from tests.cli.sheets import lines, sheet, styles
from tests.status.sample import NOW, facts

DAY = timedelta(days=1)
WEB = facts("1f02", 60 * DAY)


def a_set(served: Facts | None = WEB, disk: Facts | None = WEB, **more: object) -> CertificateSet:
    plain = CertificateSet("web", "/c/web.crt", "/c/web.key", served, disk)
    return replace(plain, **more)  # type: ignore[arg-type]


def ending(name: str, left: timedelta, **more: object) -> CertificateSet:
    """A group whose certificate has this much life left."""
    leaf = facts("1f02", left, f"{name}.example")
    return a_set(leaf, leaf, name=name, **more)


def shown(*sets: CertificateSet, whole: bool = False) -> list[str]:
    """The lines of the section, without its title."""
    return lines(lambda table: draw(sets, NOW, table, whole=whole))[2:]


# One group


def test_a_set_that_serves_has_its_life_its_name_and_its_serial() -> None:
    bare = replace(facts("1f02" * 8, 20 * DAY), spiffe_id=None)
    first, second = shown(a_set(bare, bare, name="longer"), a_set())
    assert first == "longer 20 days left, CN=web.example, serial 1f021f02…"
    assert second == "web 60 days left, spiffe://example/web.example, serial 1f02"
    assert shown() == []


@pytest.mark.parametrize(("refused", "words"), [("", False), ("no", True)])
def test_a_set_that_is_not_what_is_on_the_disk_is_marked(refused: str, words: bool) -> None:
    (line,) = shown(a_set(in_sync=False, refused=refused))
    assert ("disk" in line, "refused" in line) == (True, words)
    (line,) = shown(a_set(refused=refused))
    assert "disk" not in line


@pytest.mark.parametrize(
    ("bundles", "words"),
    [
        ((), "no certificate"),
        ((Authorities("/ca", 1, None),), "1 authority"),
        (
            (Authorities("/ca", 1200, NOW + DAY), Authorities("/cb", 2, None)),
            "1,200 authorities, until 2026-05-05 12:00Z, 2 authorities",
        ),
    ],
)
def test_a_set_without_a_certificate_has_its_bundles(bundles: tuple[Authorities, ...], words: str) -> None:
    (line,) = shown(a_set(None, None, bundles=bundles))
    assert line.startswith("web ")
    assert words in line


@pytest.mark.parametrize(
    ("left", "style", "word", "full"),
    [
        (120 * DAY, "green", "", 10),
        (31 * DAY, "green", "", 3),
        (14 * DAY, "green", "", 2),
        (13 * DAY, "yellow", "(soon)", 1),
        (2 * DAY, "yellow", "(soon)", 0),
        (DAY, "red", "(urgent)", 0),
        (-DAY, "red", "ended", 0),
    ],
    ids=str,
)
def test_what_is_left_of_a_certificate_has_a_colour_and_a_word(
    left: timedelta, style: str, word: str, full: int
) -> None:
    table = sheet(terminal=True)
    draw([ending("web", left)], NOW, table, whole=False)
    (line,) = [line for line in table.lines if "spiffe" in line.plain]
    assert line.plain.count("\N{BOX DRAWINGS HEAVY HORIZONTAL}") == 10
    found = [each for each in styles(line) if each[1] != "dim"]
    assert {each for _, each in found} == {style}
    assert [len(words) for words, _ in found if words[0] == "\N{BOX DRAWINGS HEAVY HORIZONTAL}"] == [full] * bool(full)
    assert word in line.plain, "nobody has to tell colours apart"


@pytest.mark.parametrize("at", [NOW - DAY, NOW, NOW + DAY])
def test_a_certificate_without_any_life_is_no_crash(at: datetime) -> None:
    leaf = replace(WEB, not_before=at, not_after=at)
    assert len(shown(a_set(leaf, leaf))) == 1


def test_names_are_padded_to_the_longest_but_to_no_more_than_24_columns() -> None:
    table = sheet()
    names = ("a", "b" * 30)
    draw([ending(name, 60 * DAY) for name in names], NOW, table, whole=False)
    starts = [line.plain.index("60 days") for line in table.lines[2:]]
    assert starts == [2 + 24 + 2, 2 + 30 + 2]


def test_a_line_that_wraps_continues_below_the_words_beside_the_name() -> None:
    table = sheet(width=40)
    draw([ending("web", 60 * DAY)], NOW, table, whole=False)
    first, second, *_ = (line.plain for line in table.lines[2:])
    assert first.index("60 days") == len(second) - len(second.lstrip())


# Many groups


def test_the_order_is_that_of_urgency() -> None:
    sets = [
        a_set(None, None, name="ca"),
        ending("far", 60 * DAY),
        ending("next", 20 * DAY),
        ending("b-soon", 3 * DAY),
        ending("a-soon", 3 * DAY),
        ending("urgent", DAY),
        ending("ended", -DAY),
        ending("stale", 80 * DAY, in_sync=False),
    ]
    named = [each.name for each in by_urgency(sets, NOW)]
    assert named == ["stale", "ended", "urgent", "a-soon", "b-soon", "next", "far", "ca"]


def test_the_served_certificate_decides_the_order_where_none_is_on_disk() -> None:
    gone = [
        a_set(facts("1f02", left * DAY), None, name=name, in_sync=False) for name, left in (("far", 60), ("near", 1))
    ]
    unserved = a_set(None, facts("1f02", 5 * DAY), name="new", in_sync=False)
    assert [each.name for each in by_urgency([*gone, unserved], NOW)] == ["near", "new", "far"]


CALM = [ending(f"site{number:03}", (30 + number) * DAY) for number in range(40)]


def test_many_without_trouble_are_one_line() -> None:
    (line,) = shown(*CALM)
    assert line == "40 certificates are as on disk; the next to end is site000, 30 days left: agent status --all"
    assert len(shown(*CALM, whole=True)) == 40
    assert len(shown(*CALM[:10])) == 10, "few enough to list"


def test_the_rest_may_be_one() -> None:
    *_, line = shown(*(ending(f"late{number:02}", DAY) for number in range(10)), CALM[0])
    assert line == "1 certificate is as on disk; the next to end is site000, 30 days left: agent status --all"


def test_what_ends_soon_stands_before_what_does_not() -> None:
    short = a_set(leaf := replace(facts("1", 10 * DAY), not_before=NOW - 30 * DAY), leaf, name="short")
    soon = ending("soon", 11 * DAY)
    assert [each.name for each in by_urgency([short, soon], NOW)] == ["soon", "short"], "of forty days, ten are many"


def test_what_needs_attention_is_listed_before_the_rest() -> None:
    refused = ending("bad", 80 * DAY, in_sync=False, refused="it does not fit")
    found = shown(*CALM, refused, ending("late", DAY))
    assert [line.split()[0] for line in found] == ["bad", "late", "40"]


def test_of_much_that_needs_attention_the_most_urgent_is_listed() -> None:
    late = [ending(f"late{number:02}", timedelta(hours=100 - number)) for number in range(25)]
    found = shown(*CALM, *late)
    assert [line.split()[0] for line in found[:10]] == [f"late{number}" for number in range(24, 14, -1)]
    assert found[10:] == [
        "15 more need attention: agent status --all",
        "40 certificates are as on disk; the next to end is site000, 30 days left: agent status --all",
    ]


def test_five_hundred_take_no_more_lines_than_a_screen_has() -> None:
    late = [ending(f"late{number:03}", DAY) for number in range(250)]
    assert len(shown(*late, *CALM * 6)) <= 12


def test_bundles_alone_are_counted() -> None:
    bundles = [a_set(None, None, name=f"ca{number}", bundles=(Authorities("/ca", 1, None),)) for number in range(11)]
    assert shown(*bundles) == ["11 bundles as on disk: agent status --all"]


# The sentence at the top


@pytest.mark.parametrize(
    ("sets", "words", "style"),
    [
        ([], "", ""),
        ([a_set(None, None), ending("web", 14 * DAY)], "", ""),
        (
            [ending("web", 13 * DAY), ending("api", 60 * DAY)],
            "the certificate of web needs renewal: 13 days left",
            "yellow",
        ),
        (
            [ending("web", 13 * DAY), ending("api", 26 * DAY / 24)],
            "2 certificates need renewal, first that of api: 26 h left",
            "red",
        ),
        ([ending("web", -3 * DAY)], "the certificate of web needs renewal: ended 3 days ago", "red"),
    ],
)
def test_what_ends_soon_is_said(sets: list[CertificateSet], words: str, style: str) -> None:
    assert endings(sets, NOW) == (words, style)
