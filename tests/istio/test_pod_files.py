"""The files of the downward API, quoted as Go quotes."""

import pytest

from agent.istio import pod_files


def test_each_line_is_a_pair() -> None:
    text = 'app="web"\nversion="v1"\n\nkubernetes.io/config.source="api"\n'
    assert pod_files.parse(text) == ({"app": "web", "version": "v1", "kubernetes.io/config.source": "api"}, [])


@pytest.mark.parametrize(
    ("quoted", "value"),
    [
        (r'"a\nb"', "a\nb"),
        (r'"say \"hello\""', 'say "hello"'),
        (r'"caf\u00e9"', "café"),
        (r'"\U0001F600"', "😀"),
        (r'"\xc3\xa9"', "é"),
        (r'"\303\251"', "é"),
        (r'"\\n"', "\\n"),
        ('"é = x"', "é = x"),
        ('""', ""),
        (r'"{\"a\": \"b\"}"', '{"a": "b"}'),
    ],
)
def test_a_value_is_unquoted(quoted: str, value: str) -> None:
    assert pod_files.parse(f"key={quoted}\n") == ({"key": value}, [])


@pytest.mark.parametrize(
    "line",
    [
        "no equals sign",
        "key=no quotes",
        'key="open',
        '="value"',
        r'key="\q"',
        r'key="\ud800"',
        'key="a" b',
        r'key="\777"',
    ],
)
def test_a_bad_line_is_left_out_and_its_number_returned(line: str) -> None:
    assert pod_files.parse(f'a="1"\n{line}\nb="2"') == ({"a": "1", "b": "2"}, [2])


def test_carriage_returns_are_allowed() -> None:
    assert pod_files.parse('a="1"\r\nb="2"\r\n') == ({"a": "1", "b": "2"}, [])
