"""Documents as nodes with positions: values as Kubernetes reads them, the same with and without libyaml."""

import json
from typing import Any

import pytest
import yaml

from agent.injection import yaml_tree
from agent.injection.edits import JsonValue
from agent.injection.yaml_tree import TreeNode, Unreadable, duplicate, parse
from tests.injection.vectors import CRON_JOB, DEPLOYMENT, LIST, POD, inject, uninject


@pytest.fixture(params=["libyaml", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Parse with libyaml, or without it."""
    if request.param == "python":
        monkeypatch.setattr(yaml_tree, "_LOADER", yaml.SafeLoader)
    return str(request.param)


def root(text: str) -> TreeNode:
    node = parse(text)
    assert node is not None
    return node


def value(text: str) -> JsonValue:
    return yaml_tree.value(root(text))


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", True), ("n", False), ("~", None), ("010", 8), ("0x1F", 31), ("1.5", 1.5), ("1e3", 1000.0),
        ("2001-12-14", "2001-12-14"), ("12:30", "12:30"), ("'8080'", "8080"), ("!!str 5", "5"), ("a: b: c", None),
        ("|\n  a\n", "a\n"), ("[a, {b: c}]", ["a", {"b": "c"}]), ('"\\ud83d\\ude00"', "\U0001f600"),
        ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}),
        ("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}", {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}}),
    ],
)  # fmt: skip
def test_values(text: str, expected: Any) -> None:  # noqa: ANN401  # of JSON
    if text == "a: b: c":
        with pytest.raises(Unreadable):
            parse(text)
        return
    assert value(text) == expected


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("text", [DEPLOYMENT, CRON_JOB, LIST, POD + "    args: |\n      a\n\n# end\n"])
def test_nodes_know_where_they_are(text: str) -> None:
    def check(node: TreeNode) -> None:
        if node.kind == "scalar" and not node.is_quoted and node.text:
            assert text[node.start : node.end] == node.text
        for each in (*node.items, *(inner for pair in node.pairs for inner in pair)):
            assert node.start <= each.start <= each.last <= node.last
            check(each)

    check(root(text))
    unmarked = text.removesuffix("# end\n").rstrip()
    assert root(text).last >= len(unmarked) - len(unmarked.rpartition("#")[2]) - 20


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("text", [DEPLOYMENT, CRON_JOB, LIST, POD + "    args: [a]\n  x: |+\n    a\n\n"])
def test_both_parsers_lead_to_the_same_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    injected = inject(text)
    assert uninject(injected) == text
    monkeypatch.undo()
    assert inject(text) == injected


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [\n", 3),
        ("a: 1\n b: 2\n", 2),
        ("x: *none\n", 1),
        ("a: 1\n---\nb: *a\n", 3),
        ("[" * 300, 1),
        ("\x01", 1),
    ],
)
def test_what_does_not_parse_has_a_line(text: str, line: int) -> None:
    with pytest.raises(Unreadable) as unreadable:
        parse(text)
    assert unreadable.value.line == line


def test_no_message_quotes_the_document() -> None:
    with pytest.raises(Unreadable) as unreadable:
        parse("secret: 'unfinished\n")
    assert "unfinished" not in str(unreadable.value)


def test_nothing_is_no_document() -> None:
    assert parse("# only a comment\n") is None


def test_json_may_have_tabs_between_its_tokens() -> None:
    assert value(json.dumps({"a": [1]}, indent="\t")) == {"a": [1]}


def test_aliases_that_multiply_are_refused() -> None:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ValueError, match="its aliases stand for more than"):
        value("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "at"), [("a: 1\nb: {c: 1, c: 2}", 15), ("[{? [x] : 1}]", 4), ("a: 1\nb: {a: 1}", None)]
)
def test_a_repeated_key_is_found(text: str, at: int | None) -> None:
    found = duplicate(root(text))
    assert (found and found.start) == at
