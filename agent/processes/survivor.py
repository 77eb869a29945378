"""What an earlier agent left running: told from strangers by pid and start time, never by the pid alone."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from agent.core.epochs import State
from agent.handoff.socket_store import ListenAddress
from agent.host.carried import Carried
from agent.host.processes import created_at

ADOPTED = frozenset({State.OPENING, State.SERVING, State.DRAINING})
"""What may have clients. An epoch before its gate has none, and one that was told to leave has left them."""


@dataclass(frozen=True, slots=True)
class Survivor:
    """An epoch that lives. `created`: clock ticks since boot; `places`: what it asked for."""

    number: int
    state: State
    pid: int
    created: int
    nonce: str
    base_id: int
    manifest: Carried
    places: frozenset[ListenAddress]


def find_survivor(entry: Mapping[str, Any]) -> Survivor | int | None:
    """Look for the process of an entry in the state: what can be adopted, the pid of what cannot, None if it is dead.

    An agent that was killed just after a launch could not note the pid: then it is the process with the manifest.
    """
    pid = pid_of(entry)
    if pid is None:
        return None
    try:
        found = Survivor(
            number=int(entry["number"]),
            state=State(entry["stage"]),
            pid=pid,
            created=int(entry["created"]),
            nonce=entry["nonce"],
            base_id=int(entry["base_id"]),
            manifest=Carried(**entry["manifest"]),
            places=frozenset(ListenAddress(*place) for place in entry["places"]),
        )
    except (KeyError, TypeError, ValueError):
        return pid
    return found if found.state in ADOPTED else pid


def described(places: Iterable[ListenAddress]) -> list[tuple[str, str, int]]:
    """Places as they stand in the state."""
    return [(place.address, place.namespace, place.worker) for place in sorted(places)]


def pid_of(entry: Mapping[str, Any]) -> int | None:
    """The process of an entry, if it lives; never a stranger with its number."""
    pid, created, manifest = entry.get("pid"), entry.get("created"), entry.get("manifest")
    if isinstance(pid, int):
        return pid if created is not None and created_at(pid) == created else None
    try:
        carried = Carried(**manifest)  # type: ignore[arg-type]  # that is found out here
    except TypeError:
        return None
    return next((each for each in psutil.pids() if each != os.getpid() and carried.is_carried_by(each)), None)
