"""Mutate modules and print which changes the tests do not notice: `python -m tests.mutation agent/host`.

Each mutant is tried with the tests that execute its line, those of tests/ROOM/test_MODULE.py first.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.runs import Module, failures_of, fates_of, profile_of

_UNNOTICED = ("survived", "untested")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if each mutant was killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, help="modules or packages below agent/")
    parser.add_argument("--sample", type=int, metavar="N", help="only N mutants of each module")
    parser.add_argument("--seed", type=int, default=0, help="chooses the sample")
    parser.add_argument("--tests", nargs="+", metavar="PATH", help="these tests instead of tests/ROOM")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="more of them if many mutants hang")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
    given = parser.parse_args(arguments)
    rooms: dict[str, list[Path]] = {}
    for path in given.paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if not file.name.endswith("_pb2.py"):
                rooms.setdefault(_room(file), []).append(file.resolve())
    results = []
    for room, files in rooms.items():
        tests = given.tests or [room]
        _say(f"runs {' '.join(tests)} once, for what each test executes")
        profile = profile_of(tests, files)
        if profile.failed:
            _say(f"not used, since they fail unchanged: {' '.join(profile.failed)}")
        results += [_examine(Module(file, profile), given) for file in files]
    sys.stdout.write(table(results))
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return int(any(result["survivors"] for result in results))


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the survivors as a kind of diff, then one row a module and a sum."""
    lines = []
    for result in results:
        for survivor in result["survivors"]:
            lines += [f"{result['module']}:{survivor['line']}  {survivor['fate']}"]
            lines += [f"  - {survivor['before']}", f"  + {survivor['after']}", ""]
    lines.append(f"{'module':45} mutants  killed survived      %")
    total = {key: sum(result[key] for result in results) for key in ("mutants", "killed")}
    for row in [*results, {"module": "all", **total}]:
        made, killed = row["mutants"], row["killed"]
        lines.append(f"{row['module']:45} {made:7} {killed:7} {made - killed:8} {100 * killed / (made or 1):6.1f}")
    return "\n".join([*lines, ""])


def _examine(module: Module, given: argparse.Namespace) -> dict[str, Any]:
    mutants = mutants_of(module.path)
    numbers = list(range(len(mutants)))
    if given.sample is not None and given.sample < len(numbers):
        numbers = sorted(random.Random(given.seed).sample(numbers, given.sample))
    name = str(module.path.relative_to(Path.cwd()))
    if numbers and module.tests() and (failed := failures_of(module)):
        _say(f"{name}: not used, since they fail unchanged: {' '.join(failed)}")
        module.profile.failed.extend(failed)
    fates = {}
    for number, fate in fates_of(module, mutants, numbers, given.workers):
        fates[number] = fate
        if len(fates) % 20 == 0:
            _say(f"{name}: {len(fates)} of {len(numbers)}")
    left = [_shown(mutants[number], fate) for number, fate in sorted(fates.items()) if fate in _UNNOTICED]
    return {"module": name, "mutants": len(numbers), "killed": len(numbers) - len(left), "survivors": left}


def _shown(mutant: Mutant, fate: str) -> dict[str, object]:
    return {"line": mutant.line, "fate": fate, "before": mutant.before, "after": mutant.after}


def _room(file: Path) -> str:
    """Return the directory of tests that mirrors a module's package."""
    room = Path("tests", *file.resolve().relative_to(Path.cwd()).parts[1:-1])
    while not room.is_dir():
        room = room.parent
    return str(room)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
