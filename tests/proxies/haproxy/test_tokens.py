"""The words of a configuration are those that HAProxy reads, and each one's place is exact."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agent.core.errors import BadInput
from agent.proxies.haproxy.tokens import Line, lines
from tests.proxies.haproxy.programs import checked

ENVIRONMENT = {"HOME_OF": "/etc/x", "LIST": "one  two three", "EMPTY": "", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
PIECES = ["a", "B", "/", ".", "-", " ", "\t", "\\", "'", '"', "#", "$", "{", "}", "[*]", "\\x41", "\\x4", "\\n", "\\y"]
VARIABLES = ['"$HOME_OF"', '"${HOME_OF}"', '"${NONE-de f}"', '"${EMPTY-x}"', '"${LIST[*]}"', "$HOME_OF", '"${.LINE}"']
WORDS = st.lists(st.sampled_from([*PIECES, *VARIABLES]), max_size=8).map("".join)
_ALERT = re.compile(r"^\[(?:NOTICE|ALERT)\]\s*\(\d+\) : config : parsing \[[^]:]*:(\d+)\]\s*: (.*)$", re.MULTILINE)
UNREADABLE = "unreadable"


def read(text: str) -> list[Line]:
    """Return the lines of a text."""
    return list(lines(text, "h.cfg", ENVIRONMENT))


def values(text: str) -> list[tuple[str, ...]]:
    """Return the words of each line."""
    return [line.values for line in read(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bind :80", ("bind", ":80")),
        ("a\\ b c", ("a b", "c")),
        ("a 'b c' # d", ("a", "b c")),
        ("a'b'\"c\"", ("abc",)),
        ("a#b", ("a",)),
        ("a \\#b", ("a", "#b")),
        ("a \\1\\.", ("a", "\\1\\.")),
        ("a b\\", ("a", "b\\")),
        ('a "$HOME_OF/b" $HOME_OF', ("a", "/etc/x/b", "$HOME_OF")),
        ('a "${NONE-c d}" "\\$HOME_OF"', ("a", "c d", "$HOME_OF")),
        ('a "x${LIST[*]}y" b', ("a", "xone", "two", "threey", "b")),
        ('a "\\x41\\n"', ("a", "A\n")),
        ("a\rb", ("a",)),
    ],
)
def test_words(text: str, words: tuple[str, ...]) -> None:
    assert values(text) == [words]


@pytest.mark.parametrize("text", ["a 'b", 'a "b', "a \\x4", 'a "${b"', 'a "$-"'])
def test_what_haproxy_cannot_parse_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(BadInput, match=r"^cannot use h\.cfg: line 2 cannot be parsed: .*; correct it$"):
        read(f"global\n{text}\n")


def test_a_line_that_ends_with_a_backslash_does_not_continue() -> None:
    assert values("a b\\\nc") == [("a", "b\\"), ("c",)]


def test_variables_that_the_text_sets_count_from_there_on() -> None:
    text = 'a "$X"\nsetenv X 1\na "$X"\npresetenv X 2\na "$X"\nunsetenv X\npresetenv X 3\na "$X"'
    assert [line[1] for line in values(text) if line[0] == "a"] == ["", "1", "1", "3"]


def test_the_section_is_a_variable() -> None:
    found = lines('global\na "${.SECTION}"\nfrontend web\na "${.SECTION}"\n', "h", {}, {"global", "frontend"})
    assert [line.values[1] for line in found if line.values[0] == "a"] == ["global", "web"]


def test_branches_that_are_not_taken_are_left_out() -> None:
    assert values(".if streq(a,b)\nx\n.else\ny\n.endif\nz") == [("y",), ("z",)]


@given(st.lists(WORDS, max_size=5))
def test_a_place_is_where_the_word_stands(parts: Sequence[str]) -> None:
    text = "\n".join(parts)
    try:
        found = read(text)
    except BadInput:
        return
    for line in found:
        for word in line.words:
            again = [value for each in values(text[word.start : word.end]) for value in each]
            assert word.is_shared or ".LINE" in text or again == ([word.value] if word.value else [])
        starts = [word.start for word in line.words]
        assert starts == sorted(starts)


def ours(text: str, number: int) -> object:
    """Return what we read after `.notice`: the first word and whether a second one follows."""
    try:
        found = list(lines("\n" * (number - 1) + text, "h.cfg", ENVIRONMENT))
    except BadInput:
        return UNREADABLE
    words = [*found[0].values, "", ""]
    return "another" if words[2] else words[1]


def theirs(output: str) -> dict[int, str]:
    """Return the same by line, from HAProxy's output."""
    found: dict[int, str] = {}
    for number, said in _ALERT.findall(output):
        if said.startswith("'"):
            found[int(number)] = said.removeprefix("'").removesuffix("'.")
        else:
            found[int(number)] = "another" if said.startswith("Unexpected argument") else UNREADABLE
    return found


LONG = f".notice {'x' * 4000}\n"  # HAProxy 2.6 parses the longest line so far twice, and wrongly the second time


@settings(max_examples=30, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WORDS.filter(lambda word: "\\n" not in word), min_size=30, max_size=45))
def test_haproxy_reads_the_same(tmp_path: Path, parts: Sequence[str]) -> None:
    config = tmp_path / "h.cfg"
    texts = [f".notice {part}" for part in parts]
    config.write_text(LONG + "".join(f"{text}\n" for text in texts), encoding="ascii")
    said = theirs(checked(config, ENVIRONMENT).output)
    read_by_both = {text: (ours(text, number), said.get(number, "")) for number, text in enumerate(texts, 2)}
    assert {text: both for text, both in read_by_both.items() if both[0] != both[1]} == {}
