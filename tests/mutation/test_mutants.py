from pathlib import Path

import pytest

from tests.mutation.mutants import mutants_of


def changes(tmp_path: Path, text: str) -> set[str]:
    (tmp_path / "toy.py").write_text(text, encoding="utf-8")
    return {mutant.after for mutant in mutants_of(tmp_path / "toy.py")}


@pytest.mark.parametrize(
    ("statement", "changed"),
    [
        ("x = a < b", {"x = a <= b", "x = a >= b"}),
        ("x = a == b", {"x = a != b"}),
        ("x = a in b", {"x = a not in b"}),
        ("x = a and b", {"x = a or b"}),
        ("x = not a", {"x = a"}),
        ("x = 7", {"x = 8", "x = 6"}),
        ("x = 'word'", {"x = ''"}),
        ("x = b'word'", {"x = b''"}),
        ("x = True", {"x = False"}),
        ("x = f'{a}.log'", {"x = ''"}),
        ("x = a + b", {"x = a - b"}),
        ("x *= a", {"x /= a"}),
        ("call(a)", {"pass"}),
        ("if a: call", {"if True: call", "if False: call"}),
        ("x = b if a else c", {"x = b if True else c", "x = b if False else c"}),
        ("x = [b for b in a if c]", {"x = [b for b in a if True]", "x = [b for b in a if False]"}),
        ("while a: call", {"while False: call"}),
        ("for a in b: break", {"for a in b: continue"}),
        ("def f(a=True): ...", {"def f(a=False): ..."}),
        ("def f(): return a", {"def f(): return None"}),
        ("def f(): raise a", {"def f(): pass"}),
    ],
)
def test_each_kind_of_change(tmp_path: Path, statement: str, changed: set[str]) -> None:
    assert changes(tmp_path, statement) == changed


@pytest.mark.parametrize(
    "statement",
    [
        "'a docstring'",
        "x = 'a text for people'",
        "x = f'a text for {people}'",
        "assert a < b",
        "__all__ = ['name']",
        "if TYPE_CHECKING: import a",
        "if __name__ == '__main__': call()",
        "x: Literal['a']",
        "X = A | None",
        "@dataclass(frozen=True)\nclass X: ...",
        "def f(): return None",
    ],
)
def test_what_no_test_can_notice_stays(tmp_path: Path, statement: str) -> None:
    assert changes(tmp_path, statement) == set()


def test_changes_with_the_same_bytecode_are_made_once(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text("def f():\n    if True:\n        return a\n", encoding="utf-8")
    assert [mutant.after for mutant in mutants_of(tmp_path / "toy.py")] == ["if False:", "return None"]


def test_a_mutant_knows_its_statement(tmp_path: Path) -> None:
    text = "def f(\n    a=1,\n):\n    return (\n        a\n        < 2\n    )\n"
    (tmp_path / "toy.py").write_text(text, encoding="utf-8")
    made = {(mutant.after, mutant.lines, mutant.imported) for mutant in mutants_of(tmp_path / "toy.py")}
    assert {("a=2,", range(1, 4), True), ("< 3", range(4, 8), False), ("a <= 2 …", range(4, 8), False)} <= made


def test_the_file_itself_is_not_changed(tmp_path: Path) -> None:
    assert changes(tmp_path, "x = 1 < 2")
    assert (tmp_path / "toy.py").read_text(encoding="utf-8") == "x = 1 < 2"
