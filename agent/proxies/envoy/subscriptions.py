"""The subscriptions of an epoch, by its counters: sets of listeners and clusters, secrets, routes.

Each subscription of Envoy has `<scope>.update_success`, `.update_rejected`, `.update_failure` and
`.init_fetch_timeout`; the last one tells it from other counters of the same name, such as those of DNS (docs:
configuration/overview/mgmt_server). The scopes are `listener_manager.lds`, `cluster_manager.cds`, `sds.<secret>`,
`http.<prefix>.rds.<routes>`, `cluster.<name>` for EDS, and others.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from agent.handoff import gate

FILTER = "/stats?filter=[.](init_fetch_timeout|update_success|update_rejected|update_failure)$"
LISTENERS, CLUSTERS, SECRET = "listener_manager.lds", "cluster_manager.cds", "sds."
_ENDPOINTS = "cluster."
_LINE = re.compile(r"(?P<scope>.+)\.(?P<counter>\w+): (?P<value>\d+)")
_NAMES = {LISTENERS: "its listeners (LDS)", CLUSTERS: "its clusters (CDS)"}


@dataclass(frozen=True, slots=True)
class Fetch:
    """One subscription: how often an update of it was applied, refused by the proxy, or not received.

    `given_up`: the proxy waits for its first update no longer (`initial_fetch_timeout`).
    """

    scope: str
    applied: int
    rejected: int
    failed: int
    given_up: bool = False

    @property
    def is_refused(self) -> bool:
        """Whether something came, and nothing that came could be used."""
        return self.rejected > 0 and not self.applied

    @property
    def is_essential(self) -> bool:
        """Whether an epoch without it would serve nobody, or show no certificate."""
        return self.scope in _NAMES or self.scope.startswith(SECRET)

    @property
    def secret(self) -> str | None:
        """The name of the secret that it brings, if it does."""
        return self.scope.removeprefix(SECRET) if self.scope.startswith(SECRET) else None

    def __str__(self) -> str:
        return _NAMES.get(self.scope) or (f"secret {self.secret}" if self.secret else self.scope)


Fetches = Mapping[str, Fetch]
"""Subscriptions by scope."""


def scope_of(secret: str) -> str:
    """Return the scope of a secret's counters: Envoy puts underscores for what stands between others."""
    return SECRET + secret.replace("://", "_").replace(":/", "_").replace(":", "_")


def parse(text: str) -> Fetches:
    """Read the answer to `FILTER`; the gate's own routes are left out."""
    counters: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for match in map(_LINE.fullmatch, text.splitlines()):
        if match is not None and gate.NAME not in match["scope"]:
            counters[match["scope"]][match["counter"]] = int(match["value"])
    return {
        scope: Fetch(
            scope, of["update_success"], of["update_rejected"], of["update_failure"], bool(of["init_fetch_timeout"])
        )
        for scope, of in counters.items()
        if of.keys() >= {"init_fetch_timeout", "update_success", "update_rejected", "update_failure"}
    }


def missing(fetches: Fetches, serving: Fetches) -> list[Fetch]:
    """Return what a candidate has not applied and needs, the refused ones first.

    It needs what the serving epoch has applied, and of what that one does not fetch whatever is essential. What the
    serving epoch lacks as well keeps nobody from serving, nor do the endpoints of one cluster (EDS) once the proxy has
    given them up: a control plane may have forgotten them.
    """
    found = [each for each in fetches.values() if not each.applied and _is_needed(each, serving)]
    return sorted(found, key=lambda each: (not each.is_refused, not each.is_essential, each.scope))


def _is_needed(fetch: Fetch, serving: Fetches) -> bool:
    known = serving.get(fetch.scope)
    if known is None:
        return fetch.is_essential
    return known.applied > 0 and not (fetch.given_up and fetch.scope.startswith(_ENDPOINTS))
