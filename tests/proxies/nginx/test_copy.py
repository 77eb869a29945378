"""The copy is one text, and each of its lines has an origin."""

from agent.proxies.nginx.copy import Copy, Replaced
from agent.proxies.nginx.sources import Sources


def made(text: str, resources: dict[str, bytes] | None = None, **words: str) -> Copy:
    """Return the copy in which the values of these directives are replaced."""
    sources = Sources(text, "/n.conf", "/", resources or {})
    replaced: dict[int, list[Replaced]] = {}
    for found in sources.walk():
        if (new := words.get(found.directive.name)) is not None:
            word = found.directive.words[1]
            replaced.setdefault(id(found.source), []).append(Replaced(word.start, word.end, new))
    return Copy(sources.main, replaced)


def test_without_a_change_it_is_the_same_text() -> None:
    text = "a  b; # c\n\n\thttp { d 'e'; }"
    assert made(text).text == text


def test_words_are_replaced_and_nothing_else() -> None:
    assert made("a  'b c' ; # a b\nhttp { a b;}", a="new").text == "a  new ; # a b\nhttp { a new;}"


def test_an_include_is_replaced_by_its_files() -> None:
    resources = {"/x/*": b"/x/1\n/x/2", "/x/1": b"a b;", "/x/2": b"c;\n# no end of line"}
    assert made("include /x/*; d;", resources, a="new").text == "a new;\nc;\n# no end of line\n d;"


def test_each_line_has_its_origin() -> None:
    resources = {"/x/*": b"/x/1\n/x/2", "/x/1": b"a\n b;\n", "/x/2": b"c;"}
    copy = made("1;\n2; include /x/*; e;\n3 \n 4;", resources, a="new")
    origins = {}
    for number, line in enumerate(copy.text.split("\n"), start=1):
        origins[line.strip()] = copy.original(number)
    assert origins["1;"] == "/n.conf:1"
    assert origins["new;"] == "/x/1:2"
    assert origins["c;"] == "/x/2:1"
    assert origins["e;"] == "/n.conf:2"
    assert origins["4;"] == "/n.conf:4"
