"""Evaluates `.if`, `.elif`, `.else` and `.endif` of an HAProxy configuration (configuration manual, section 2.4).

What only the program knows is assumed: that it has each feature, and is as new as any version that is named.
"""

import re
from collections.abc import Collection, Mapping

_TOKEN = re.compile(r"\s*(?:(?P<word>\w+)\s*\((?P<arguments>[^()]*)\)|(?P<number>\d+)|(?P<sign>&&|\|\||[!()]))")


class Branches:
    """The branches that enclose a line. `environment` has the variables at that line."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._taken: list[bool] = []  # whether the current branch of each open `.if` is taken
        self._done: list[bool] = []  # whether no later branch of it can be

    def leave_out(self, words: tuple[str, ...]) -> bool:
        """Return whether a line is one of these directives, or in a branch that is not taken."""
        match words:
            case (".if", *rest):
                self._begin(rest)
            case (".elif" | ".else" as word, *rest) if self._taken:
                taken = not self._done[-1] and (word == ".else" or holds(" ".join(rest), self._environment))
                self._taken[-1] = taken
                self._done[-1] = self._done[-1] or taken
            case (".endif", *_) if self._taken:
                self._taken.pop()
                self._done.pop()
            case _:
                return not all(self._taken)
        return True

    def _begin(self, rest: Collection[str]) -> None:
        may_be_taken = all(self._taken)
        taken = may_be_taken and holds(" ".join(rest), self._environment)
        self._taken.append(taken)
        self._done.append(taken or not may_be_taken)


def holds(expression: str, environment: Mapping[str, str]) -> bool:
    """Return whether a condition holds; one that cannot be parsed does not: HAProxy refuses it."""
    reader = _Expression(expression, environment)
    try:
        return reader.alternatives() and reader.is_at_end
    except ValueError:
        return False


class _Expression:
    def __init__(self, text: str, environment: Mapping[str, str]) -> None:
        self._tokens = list(_TOKEN.finditer(text))
        self._at = 0
        self._environment = environment
        self._is_whole = "".join(found[0] for found in self._tokens).strip() == text.strip()

    @property
    def is_at_end(self) -> bool:
        """Whether the whole text was read."""
        return self._is_whole and self._at == len(self._tokens)

    def alternatives(self) -> bool:
        """Read terms joined by `||`. Raises `ValueError`."""
        result = self._all()
        while self._takes("||"):
            result = self._all() or result
        return result

    def _all(self) -> bool:
        result = self._term()
        while self._takes("&&"):
            result = self._term() and result
        return result

    def _term(self) -> bool:
        if self._takes("!"):
            return not self._term()
        if self._takes("("):
            result = self.alternatives()
            if not self._takes(")"):
                message = "a parenthesis is not closed"
                raise ValueError(message)
            return result
        found = self._next()
        return int(found["number"]) != 0 if found["number"] else self._predicate(found["word"], found["arguments"])

    def _predicate(self, name: str | None, arguments: str | None) -> bool:
        first, _, second = (each.strip() for each in (arguments or "").partition(","))
        match name:
            case "defined":
                return first in self._environment
            case "streq":
                return first == second
            case "strneq":
                return first != second
            case "version_before":
                return False
            case None:
                message = "a term is missing"
                raise ValueError(message)
            case _:
                return True

    def _next(self) -> re.Match[str]:
        if self._at >= len(self._tokens):
            message = "a term is missing"
            raise ValueError(message)
        self._at += 1
        return self._tokens[self._at - 1]

    def _takes(self, sign: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at]["sign"] == sign:
            self._at += 1
            return True
        return False
