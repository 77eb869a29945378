"""Short display names for certificate groups, which are identified by paths."""

from collections import Counter
from collections.abc import Iterable
from posixpath import splitext


def named(groups: Iterable[str]) -> dict[str, str]:
    """Name each group by the fewest last parts of its path, without suffix, that are unique."""
    paths = {group: splitext(group)[0] for group in set(groups)}
    names = {group: path.rpartition("/")[2] for group, path in paths.items()}
    depth, deepest = 1, max((path.count("/") for path in paths.values()), default=0)
    while shared := _shared(names):
        depth += 1
        if depth > deepest + 1:
            # Groups that differ in the suffix alone are named by their whole paths, which are nobody else's name.
            return {group: group if group in shared or name in paths else name for group, name in names.items()}
        names |= {group: "/".join(paths[group].split("/")[-depth:]) for group in shared}
    return names


def _shared(names: dict[str, str]) -> list[str]:
    counts = Counter(names.values())
    return [group for group, name in names.items() if counts[name] > 1]
