"""The command, on a toy module in a directory of its own; and a job that hangs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest

from tests.mutation.forks import TIMEOUT, at_work, run

ROOT = Path(__file__).parents[2]
TOY = """
def smaller(a, b):
    return a < b

def twice(n):
    return n + n

def forgotten():
    raise KeyError

def main():
    print("toy")

LIMIT = 7
"""
TESTS = """
import os, subprocess, sys
from toys.room import toy

def test_smaller():
    assert toy.smaller(1, 2)

def test_limit():
    assert toy.LIMIT == 7

def test_twice():
    toy.twice(3)

def test_main_elsewhere():
    program = "from toys.room.toy import main; main()"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"toy\\n"

def test_that_fails():
    assert not toy.smaller(1, 2)

def test_that_leaves_a_process_and_a_file():
    subprocess.Popen(["sleep", "98765.25"], start_new_session=True)
    open(os.environ["TMPDIR"] + "/left", "w").close()
    assert not toy.smaller(3, 2)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mutate the toy; return its directory."""
    place = tmp_path_factory.mktemp("toy")
    for name, text in (("toys/room/toy.py", TOY), ("tests/room/test_toy.py", TESTS)):
        (place / name).parent.mkdir(parents=True)
        (place / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "tests.mutation", "toys/room/toy.py", "--json", "result.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1, done.stderr
    assert "they fail unchanged: tests/room/test_toy.py::test_that_fails\n" in done.stderr
    (place / "table").write_text(done.stdout, encoding="utf-8")
    return place


def test_what_the_tests_notice_is_killed(place: Path) -> None:
    [result] = json.loads((place / "result.json").read_text(encoding="utf-8"))
    assert result["survivors"] == [
        {"line": 3, "fate": "survived", "before": "return a < b", "after": "return a <= b"},
        {"line": 6, "fate": "survived", "before": "return n + n", "after": "return None"},
        {"line": 6, "fate": "survived", "before": "return n + n", "after": "return n - n"},
        {"line": 9, "fate": "survived", "before": "raise KeyError", "after": "pass"},
    ]
    assert (result["mutants"], result["killed"]) == (10, 6)


def test_the_table_shows_survivors_as_a_diff_and_sums(place: Path) -> None:
    lines = (place / "table").read_text(encoding="utf-8").splitlines()
    assert lines[:4] == ["toys/room/toy.py:3  survived", "  - return a < b", "  + return a <= b", ""]
    assert lines[-1].split() == ["all", "10", "6", "4", "60.0"]


def test_nothing_is_left(place: Path) -> None:
    assert not [
        process for process in psutil.process_iter(["cmdline"]) if "98765.25" in (process.info["cmdline"] or ())
    ]
    left: Any = {str(path.relative_to(place)) for path in place.rglob("*") if "__pycache__" not in path.parts}
    assert left == {
        "result.json",
        "table",
        "tests",
        "tests/room",
        "tests/room/test_toy.py",
        "toys",
        "toys/room",
        "toys/room/toy.py",
    }


def test_a_job_that_hangs_is_ended() -> None:
    def work(place: Path) -> Iterator[list[int]]:
        yield [run(place, lambda: int(Event().wait(1000)), 0.1), run(place, lambda: 7, 60)]

    assert list(at_work([work])) == [[TIMEOUT, 7]]
