"""Forwards requests at the bootstrap's admin address to the serving epoch's admin socket.

The operator's `allow_paths` is enforced here, since the epochs' admin interfaces must allow the agent everything. An
unknown matcher allows nothing.
"""

import re
from collections.abc import Callable, Sequence

from yaml.nodes import Node

from agent.http.client import UnixPlace, passed_on
from agent.http.message import Request, Response
from agent.proxies.envoy import yaml_nodes

_NOT_NORMAL = re.compile(r"%|\\|//|/\.{1,2}(?:[/?#]|$)")
_TESTS: dict[str, Callable[[str, str], bool]] = {
    "exact": str.__eq__,
    "prefix": str.startswith,
    "suffix": str.endswith,
    "contains": str.__contains__,
}


class Forwarder:
    """Forwards requests to `target`. `allowed`: the operator's `allow_paths`."""

    def __init__(self, allowed: Sequence[Node]) -> None:
        self.target: UnixPlace | None = None
        self._allowed = allowed

    async def answer(self, request: Request) -> Response:
        """Forward a request, and stream the response."""
        if not self._allows(request.target):
            return Response(403, f"request to path {request.target} not allowed\n".encode())
        if self.target is None:
            return Response(503, b"no epoch serves\n")
        try:
            return await passed_on(self.target, request)
        except OSError as error:
            return Response(503, f"the epoch does not answer: {error}\n".encode())

    def _allows(self, target: str) -> bool:
        """Return whether a path with its query matches; one that Envoy would normalise never does."""
        if not self._allowed:
            return True
        return not _NOT_NORMAL.search(target) and any(_matches(matcher, target) for matcher in self._allowed)


def _matches(matcher: Node, path: str) -> bool:
    """Apply a StringMatcher: exact, prefix, suffix, contains or safe_regex, with ignore_case."""
    regex = yaml_nodes.text(yaml_nodes.get(matcher, "safe_regex", "regex"))
    if regex is not None:
        return _matches_regex(regex, path)
    folds = yaml_nodes.truth(yaml_nodes.get(matcher, "ignore_case"), default=False)
    for name, test in _TESTS.items():
        wanted = yaml_nodes.text(yaml_nodes.get(matcher, name))
        if wanted is not None:
            return test(path.lower(), wanted.lower()) if folds else test(path, wanted)
    return False


def _matches_regex(regex: str, path: str) -> bool:
    try:
        return re.fullmatch(regex, path) is not None
    except re.error:  # RE2 syntax that Python lacks
        return False
