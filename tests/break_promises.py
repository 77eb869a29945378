"""Break promises one at a time in a copy of the tree, and see their tests fail: `python -m tests.break_promises`.

Exits with 1 if a broken promise goes unnoticed, with 2 if a test fails although nothing is broken.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from tests.promises import PROMISES, Promise

ROOT = Path(__file__).parents[1]
PATIENCE = "40"  # seconds in which a test sees that something does not happen
TIME_LIMIT = 900
_OUTCOMES = {0: "UNNOTICED", 1: "noticed"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.break_promises", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these promises")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--no-clean-run", action="store_true", help="do not run the tests unbroken before")
    given = parser.parse_args(arguments)
    if unknown := {*given.names} - {promise.name for promise in PROMISES}:
        parser.error(f"there is no promise {', '.join(sorted(unknown))}; see tests/promises.py")
    chosen = [promise for promise in PROMISES if not given.names or promise.name in given.names]
    with _copies(given.workers) as copies, ThreadPoolExecutor(given.workers) as pool:
        if not given.no_clean_run:
            copy = copies.get()
            code, output = _run(copy, sorted({test for promise in chosen for test in promise.tests}))
            copies.put(copy)
            if code:
                sys.stdout.write(f"{output}\nthe tests fail although nothing is broken\n")
                return 2
        unnoticed = 0
        for promise, outcome, seconds in pool.map(lambda each: _break(copies, each), chosen):
            sys.stdout.write(f"{promise.name:24} {outcome:12} {seconds:6.1f} s  {promise.sentence}\n")
            sys.stdout.flush()
            unnoticed += outcome != "noticed"
    sys.stdout.write(f"{len(chosen)} promises broken, {unnoticed} unnoticed\n")
    return int(unnoticed > 0)


@contextmanager
def _copies(count: int) -> Iterator["SimpleQueue[Path]"]:
    """Give copies of the tree, for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="p.", dir="/tmp") as directory:  # Unix sockets have short names
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(count):
            copy = Path(directory, str(number), "tree")
            shutil.copytree(ROOT, copy, ignore=_left_out, symlinks=True)
            copies.put(copy)
        yield copies


def _left_out(directory: str, names: list[str]) -> list[str]:
    out = {"__pycache__", ".hypothesis"} | ({".git", ".venv", "site"} if directory == str(ROOT) else set())
    return [name for name in names if name in out or name.endswith("_cache")]


def _break(copies: "SimpleQueue[Path]", promise: Promise) -> tuple[Promise, str, float]:
    copy, began = copies.get(), time.monotonic()
    path = copy / "agent" / promise.file
    text = path.read_text(encoding="utf-8")
    _write(path, text.replace(promise.old, promise.new))
    try:
        code, output = _run(copy, promise.tests)
    finally:
        _write(path, text)
        copies.put(copy)
    if code not in _OUTCOMES:
        sys.stderr.write(f"{output}\n")
    return promise, _OUTCOMES.get(code, f"pytest: {code}"), time.monotonic() - began


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):  # it may have the same time and size
        compiled.unlink()


def _run(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run tests of a copy on the code of that copy, the programs of the environment included."""
    nodes = [f"tests/{test}" for test in tests]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not long", "-p", "no:cacheprovider", *nodes]
    environment = {**os.environ, "PYTHONPATH": str(copy), "TESTS_PATIENCE": PATIENCE}
    base = f"--basetemp={copy.parent / 'b'}"
    try:
        done = subprocess.run(
            [*command, base], cwd=copy, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, "it hangs"
    return done.returncode, f"{done.stdout}{done.stderr}"


if __name__ == "__main__":
    sys.exit(main())
