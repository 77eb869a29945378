"""Answers of admin interfaces, as flat tables of texts, and the differences of two of them.

A key names the request and the place in its answer: `GET /certs $.certificates[0].cert_chain[0].path`. Times, versions
and values that depend on the number of requests are masked, for both sides alike.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.system.proxies import Console, Reply

Observed = dict[str, str]
UNSEEN = {"date", "transfer-encoding", "content-length", "connection"}
AGAIN = "(again) "  # prefix for the keys of a repeated request
VARYING = (
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "DATE"),
    (r"[0-9a-f]{40}/[\w./-]+", "VERSION"),
)
VOLATILE = re.compile(
    r"(listener|http)\.admin\..*|server\.(memory_\w+|uptime|version|stats_recent_lookups|\S+watchdog\S+)|filesystem\..*"
    r"|envoy_(listener_admin|http_downstream|server_(memory|uptime|version|stats_recent)|filesystem)\S*.*admin.*"
    r"|envoy_server_(memory_\w+|uptime|version|stats_recent_lookups|\S*watchdog\S*|\S*initialization_time\S*)({.*)?"
    r"|envoy_filesystem_.*|.*envoy_(http_conn_manager_prefix|listener_address)=\"admin\".*|envoy_listener_admin_.*"
    r"|\$\.uptime_\w+"
)


@dataclass(frozen=True)
class Difference:
    """A place where two admin interfaces differ; None if one has no value there."""

    key: str
    ours: str | None
    theirs: str | None

    def __str__(self) -> str:
        return f"{self.key}: {self.ours!r}, Envoy {self.theirs!r}"


def observed(console: Console, method: str, path: str) -> Observed:
    """Make a request and flatten its answer."""
    reply = console.ask(path, method)
    told = {"status": str(reply.status), **_headers(reply), **_body(reply)}
    return {
        f"{method} {path} {place}": _steady(value) for place, value in told.items() if not VOLATILE.fullmatch(place)
    }


def _headers(reply: Reply) -> Observed:
    return {f"header {name}": value for name, value in reply.headers.items() if name not in UNSEEN}


def _body(reply: Reply) -> Observed:
    text = reply.text
    if text.startswith(("{", "[")):
        return dict(_flat(json.loads(text)))
    if text.startswith("<!DOCTYPE html>"):
        return {"body": "a page"}
    if reply.status == 404:
        return {"body": text.partition("\n")[0]}
    return dict(_lines(text))


def _flat(tree: object, place: str = "$") -> Iterator[tuple[str, str]]:
    match tree:
        case {"name": str(name), "value": value}:  # a statistic
            yield name, json.dumps(value)
        case dict() if tree:
            for key, value in tree.items():
                yield from _flat(value, f"{place}.{key}")
        case list() if tree:
            for number, value in enumerate(tree):
                yield from _flat(value, place if is_statistic(value) else f"{place}[{_name_of(value, number)}]")
        case _:
            yield place, json.dumps(tree)


def is_statistic(tree: object) -> bool:
    """Return whether an object is a statistic in JSON, which is identified by its name."""
    return isinstance(tree, dict) and set(tree) == {"name", "value"}


def _name_of(value: object, number: int) -> str:
    kind = value.get("@type") if isinstance(value, dict) else None
    return str(kind).rpartition(".")[2] if kind else str(number)


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines()):
        prometheus = re.fullmatch(r"(# TYPE \S+|[a-z_]\w*(?:{.*})?) (\S+)", line)
        statistic = re.fullmatch(r"([\w.\-\[\]]+): (.*)", line)
        if found := prometheus or statistic:
            yield found[1], found[2]
        else:
            yield f"line {number}", line


def _steady(value: str) -> str:
    for pattern, name in VARYING:
        value = re.sub(pattern, name, value)
    return value


def differences(ours: Observed, theirs: Observed) -> list[Difference]:
    """List the differences, in the order of their keys."""
    keys = sorted(ours.keys() | theirs.keys())
    return [Difference(key, ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)]


@dataclass(frozen=True)
class Documented:
    """Intended differences: the keys that match entirely, and the reason. `absent`: only those that we omit."""

    pattern: str
    reason: str
    absent: bool = False

    def covers(self, difference: Difference) -> bool:
        """Return whether this explains a difference."""
        said = difference.ours is None or not self.absent
        return said and re.fullmatch(self.pattern, difference.key.removeprefix(AGAIN)) is not None


def unexplained(found: Iterable[Difference], table: Iterable[Documented]) -> list[Difference]:
    """List the differences that no entry of the table explains."""
    entries = list(table)
    return [difference for difference in found if not any(entry.covers(difference) for entry in entries)]


def idle(found: Iterable[Difference], table: Iterable[Documented]) -> list[Documented]:
    """List the entries without a matching difference, which would hide the next mistake."""
    differences = list(found)
    return [entry for entry in table if not any(entry.covers(difference) for difference in differences)]
