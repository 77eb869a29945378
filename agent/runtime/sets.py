"""Short names for sets of certificates: a unit is named by a path, and a path is no label."""

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath


def named(units: Iterable[str]) -> dict[str, str]:
    """Name each unit by the last parts of its path, without the suffix: as few as tell it from the others."""
    paths = {unit: PurePath(unit).with_suffix("").parts for unit in set(units)}
    names = {unit: parts[-1] for unit, parts in paths.items()}
    depth = 1
    while shared := _shared(names):
        depth += 1
        names |= {unit: "/".join(paths[unit][-depth:]) for unit in shared}
        if depth > max(map(len, paths.values())):
            return names | {unit: unit for unit in shared}  # they differ in the suffix alone
    return names


def _shared(names: dict[str, str]) -> list[str]:
    counts = Counter(names.values())
    return [unit for unit, name in names.items() if counts[name] > 1]
