"""The table of promises fits the code and the tests; `tests.break_promises` tells whether the tests notice."""

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.promises import PROMISES, Promise

ROOT = Path(__file__).parents[1]
NAMES = [promise.name for promise in PROMISES]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_mark(assignment: ast.Assign) -> bool:
    return any(isinstance(each, ast.Name) and each.id == "pytestmark" for each in assignment.targets)


def test_names_are_unique() -> None:
    assert [name for name, count in Counter(NAMES).items() if count > 1] == []


@pytest.mark.parametrize("promise", PROMISES, ids=NAMES)
def test_its_edit_applies_once_and_leaves_python(promise: Promise) -> None:
    text = (ROOT / "agent" / promise.file).read_text(encoding="utf-8")
    assert text.count(promise.old) == 1
    assert promise.new != promise.old
    assert ast.parse(text.replace(promise.old, promise.new)).body


@pytest.mark.parametrize("promise", PROMISES, ids=NAMES)
def test_its_tests_exist_in_the_default_run(promise: Promise) -> None:
    assert promise.tests
    for node in promise.tests:
        file, _, name = node.partition("::")
        tree = tree_of(ROOT / "tests" / file)
        functions = [each for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
        (function,) = [each for each in functions if each.name == name.partition("[")[0]]
        marks = [ast.unparse(each) for each in function.decorator_list]
        marks += [ast.unparse(each.value) for each in tree.body if isinstance(each, ast.Assign) and is_mark(each)]
        assert not {"LONG", "pytest.mark.long"} & {*marks}
        assert not name.endswith("[sidecar]") or "pytest.mark.sidecar" in marks
