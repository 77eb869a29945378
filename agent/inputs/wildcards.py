"""Names of resources that stand for a list of paths: shell wildcards.

Their lists are no part of a revision: what they add to it are the files that they name.
"""

from posixpath import dirname

_WILD = frozenset("*?[")


def is_wildcard(name: str) -> bool:
    """Return whether a resource is a list of the paths that match its name."""
    return not _WILD.isdisjoint(name)


def watched_for(name: str) -> str:
    """Return the path whose changes may change a resource: for a wildcard, the first directory without one."""
    while is_wildcard(name):
        name = dirname(name)
    return name or "/"
