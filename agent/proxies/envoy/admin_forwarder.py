"""The admin address that the bootstrap names: it stays, and leads each request to the console of the epoch that serves.

What the operator's `allow_paths` allows is kept to here, since the epochs' own consoles must answer everything to the
agent. A matcher that is not understood allows nothing.
"""

import re
from collections.abc import Callable, Sequence
from typing import Self

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
    """Answers requests in the place of whichever console `target` is at. `allowed`: the operator's `allow_paths`."""

    def __init__(self, allowed: Sequence[Node]) -> None:
        self.target: UnixPlace | None = None
        self._allowed = allowed

    @classmethod
    def to(cls, console: UnixPlace) -> Self:
        """One to this console alone, for whoever may ask everything."""
        forwarder = cls(())
        forwarder.target = console
        return forwarder

    async def answer(self, request: Request) -> Response:
        """Pass a request on, and the answer back as it comes."""
        if not self._allows(request.target):
            return Response(403, f"request to path {request.target} not allowed\n".encode())
        if self.target is None:
            return Response(503, b"no epoch serves\n")
        try:
            return await passed_on(self.target, request)
        except OSError as error:
            return Response(503, f"the epoch does not answer: {error}\n".encode())

    def _allows(self, target: str) -> bool:
        """As Envoy, match the query as well; what Envoy would first bring into another form is not allowed."""
        if not self._allowed:
            return True
        return not _NOT_NORMAL.search(target) and any(_matches(matcher, target) for matcher in self._allowed)


def _matches(matcher: Node, path: str) -> bool:
    """Envoy's StringMatcher: exact, prefix, suffix, contains or safe_regex, with ignore_case."""
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
    except re.error:  # RE2 knows what Python does not
        return False
