"""Words and blocks are those that NGINX sees, each with its place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import BadInput
from agent.proxies.nginx.directives import Directive, directives, quoted


def tree(found: list[Directive]) -> list[tuple[object, ...]]:
    """Return the words of each directive, with those of its block."""
    return [(*(word.value for word in each.words), *([tree(each.block)] if each.closing else [])) for each in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a;", [("a",)]),
        ("a b  c\n\td;", [("a", "b", "c", "d")]),
        ("a { b; c {} }", [("a", [("b",), ("c", [])])]),
        ("a; # b;\nc # d\n e;", [("a",), ("c", "e")]),
        ("a b#c;", [("a", "b#c")]),
        ('a "b c" \'d "e\';', [("a", "b c", 'd "e')]),
        (r'a "b \" c" d\ e f\;;', [("a", 'b " c', r"d\ e", r"f\;")]),
        (r'a "\t\r\n\\\x" \$;', [("a", "\t\r\n\\\\x", r"\$")]),
        ("a ${b}c $d;", [("a", "${b}c", "$d")]),
        ("a ${b c;", [("a", "${b", "c")]),
        ("a b{ c; }", [("a", "b", [("c",)])]),
        ("a ~ ^/x}y$ { b; }", [("a", "~", "^/x}y$", [("b",)])]),
        ('if ($a = "b") { c; }', [("if", "($a", "=", "b", ")", [("c",)])]),
        ('"a" ;', [("a",)]),
        ("a '';", [("a", "")]),
        ("a;\r\nb;\r\n", [("a",), ("b",)]),
        ('content_by_lua_block { if x then print("}") end } a;', [("content_by_lua_block", []), ("a",)]),
        ("x_by_lua_block { -- }\n local t = {1} --[[ } ]] }", [("x_by_lua_block", [])]),
        ("x_by_lua_block { a = [[it's }]] b = [==[ ]] } ]==] --[=[ ' } ]=] }", [("x_by_lua_block", [])]),
        ("set_by_lua_block $a { return '}' }", [("set_by_lua_block", "$a", [])]),
    ],
)
def test_words(text: str, expected: list[object]) -> None:
    assert tree(directives(text, "x.conf")) == expected


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("a", 1, 'a directive is not ended by ";"'),
        ("a;\nb {\n c;\n", 4, 'a block is not closed by "}"'),
        ("a;\n}", 2, 'there is no block that this "}" could close'),
        ("a\n}", 2, '"}" is not expected here'),
        (";", 1, '";" is not expected here'),
        ("{ a; }", 1, '"{" is not expected here'),
        ("a\n 'b", 2, "a quote is not closed"),
        ("x_by_lua_block { {", 1, "a block of Lua is not closed"),
        ("a {" * 200, 1, "more than 64 blocks are within one another"),
    ],
)
def test_what_cannot_be_parsed(text: str, line: int, why: str) -> None:
    with pytest.raises(BadInput) as refused:
        directives(text, "/etc/x.conf")
    assert str(refused.value) == f"cannot use /etc/x.conf: line {line} cannot be parsed: {why}; correct it"


def test_places() -> None:
    text = "a;\nserver {\n  ssl_certificate  'x y.pem' ;\n}\n"
    _, server = directives(text, "x.conf")
    (certificate,) = server.block
    assert (server.line, certificate.line) == (2, 3)
    assert text[server.start : server.end] == "server {\n  ssl_certificate  'x y.pem' ;\n}"
    assert server.closing == text.index("}")
    assert text[certificate.words[1].start : certificate.words[1].end] == "'x y.pem'"
    assert certificate.values == ("x y.pem",)


def test_the_content_is_not_quoted() -> None:
    with pytest.raises(BadInput) as refused:
        directives("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n", "key.pem")
    assert "c2V" not in str(refused.value)


@given(st.text(min_size=1))
def test_a_quoted_text_is_one_word_with_its_value(text: str) -> None:
    (found,) = directives(f"a {quoted(text)};", "x.conf")
    assert found.values == (text,)


TEXTS = st.text(alphabet="ab $\\{};\"'#\n\t()~-[]=", max_size=60)


@given(TEXTS)
def test_any_text_is_parsed_or_refused_and_places_are_in_order(text: str) -> None:
    try:
        found = directives(text, "x.conf")
    except BadInput:
        return
    at = 0
    for each in found:
        assert at <= each.start < each.end <= len(text)
        assert all(each.start <= word.start < word.end <= each.end for word in each.words)
        at = each.end
