"""Parses an epoch's subscriptions from its counters: listeners, clusters, secrets, routes.

Each subscription of Envoy has `<scope>.update_success`, `.update_rejected`, `.update_failure` and
`.init_fetch_timeout`; the last one distinguishes it from other counters of the same name, such as those of DNS (docs:
configuration/overview/mgmt_server). The scopes are `listener_manager.lds`, `cluster_manager.cds`, `sds.<secret>`,
`http.<prefix>.rds.<routes>`, `cluster.<name>` for EDS, and others.
"""

import re
from collections import defaultdict

from agent.handoff import gate
from agent.proxies.interface import Delivered, Subscription, Subscriptions

FILTER = "/stats?filter=[.](init_fetch_timeout|update_success|update_rejected|update_failure)$"
VERSIONS = "/stats?filter=^(listener_manager[.]lds|sds[.]agent_secret_.*)[.](version_text|update_rejected)$"
LISTENERS, CLUSTERS, SECRET = "listener_manager.lds", "cluster_manager.cds", "sds."
_ENDPOINTS = "cluster."
_LINE = re.compile(r"(?P<scope>.+)\.(?P<counter>\w+): (?P<value>\d+)")
_NAMES = {LISTENERS: "its listeners (LDS)", CLUSTERS: "its clusters (CDS)"}


def subscription(
    scope: str, applied: int = 0, rejected: int = 0, failed: int = 0, *, given_up: bool = False
) -> Subscription:
    """Return the subscription whose counters have this scope."""
    secret = scope.removeprefix(SECRET) if scope.startswith(SECRET) else None
    description = _NAMES.get(scope) or (f"secret {secret}" if secret else scope)
    essential = scope in _NAMES or secret is not None
    return Subscription(scope, description, applied, rejected, failed, given_up, essential, secret)


def scope_of(secret: str) -> str:
    """Return the scope of a secret's counters: Envoy replaces `://`, `:/` and `:` by underscore."""
    return SECRET + secret.replace("://", "_").replace(":/", "_").replace(":", "_")


def parse(text: str) -> Subscriptions:
    """Parse the response to `FILTER`, without the gate's own routes."""
    counters: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for match in map(_LINE.fullmatch, text.splitlines()):
        if match is not None and gate.NAME not in match["scope"]:
            counters[match["scope"]][match["counter"]] = int(match["value"])
    return {
        scope: subscription(
            scope,
            of["update_success"],
            of["update_rejected"],
            of["update_failure"],
            given_up=bool(of["init_fetch_timeout"]),
        )
        for scope, of in counters.items()
        if of.keys() >= {"init_fetch_timeout", "update_success", "update_rejected", "update_failure"}
    }


def parse_versions(text: str) -> dict[str, Delivered]:
    """Parse the response to `VERSIONS`: a counter is a number, a version is in quotes."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for line in text.splitlines():
        name, _, value = line.partition(": ")
        scope, _, counter = name.rpartition(".")
        found[scope][counter] = value
    return {
        scope: Delivered(of.get("version_text", "").strip('"'), int(of.get("update_rejected", "0")))
        for scope, of in found.items()
        if "version_text" in of
    }


def missing(subscriptions: Subscriptions, serving: Subscriptions) -> list[Subscription]:
    """Return the subscriptions that a candidate needs and lacks, the rejected ones first.

    It needs those that the serving epoch has applied, and essential ones that the serving epoch does not fetch. It does
    not need those that the serving epoch lacks as well, nor the endpoints of a cluster (EDS) for which the proxy's wait
    timed out: the control plane may no longer have them.
    """
    found = [each for each in subscriptions.values() if not each.applied and _is_needed(each, serving)]
    return sorted(found, key=lambda each: (not each.is_refused, not each.is_essential, each.scope))


def _is_needed(subscription: Subscription, serving: Subscriptions) -> bool:
    known = serving.get(subscription.scope)
    if known is None:
        return subscription.is_essential
    return known.applied > 0 and not (subscription.given_up and subscription.scope.startswith(_ENDPOINTS))
