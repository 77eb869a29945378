"""Finds an earlier agent's running epochs by pid and start time, never by pid alone."""

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
"""The states in which an epoch may have clients: not before its gate, nor after SIGTERM."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """The last push into an epoch: the revision, the slot of each file, and a digest of the files.

    `used` has a digit for each file that can be pushed, in order of the paths, see `Slots.used`. `is_torn`: another
    push was under way.
    """

    digest: str
    used: str
    contents: str
    is_torn: bool = False


@dataclass(frozen=True, slots=True)
class Survivor:
    """A running epoch. `created`: clock ticks since boot; `places`: the addresses it requested."""

    number: int
    state: State
    pid: int
    created: int
    nonce: str
    base_id: int | None
    manifest: Carried
    places: frozenset[ListenAddress]
    pushed: Pushed | None = None


def find_survivor(entry: Mapping[str, Any]) -> Survivor | int | None:
    """Find the process of a state entry.

    Returns a `Survivor` if it can be adopted, its pid if it cannot, None if it has exited. An agent killed just after a
    launch could not record the pid; the process is then found by the manifest that it holds open.
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
            base_id=None if entry["base_id"] is None else int(entry["base_id"]),
            manifest=Carried(**entry["manifest"]),
            places=frozenset(ListenAddress(*place) for place in entry["places"]),
            pushed=None if entry.get("pushed") is None else Pushed(**entry["pushed"]),
        )
    except (KeyError, TypeError, ValueError):
        return pid
    return found if found.state in ADOPTED else pid


def described(places: Iterable[ListenAddress]) -> list[tuple[str, str, int]]:
    """Return addresses in the form of the state file."""
    return [(place.address, place.namespace, place.worker) for place in sorted(places)]


def pid_of(entry: Mapping[str, Any]) -> int | None:
    """Return the pid of an entry's process if it runs; never that of a process that reused it."""
    pid, created, manifest = entry.get("pid"), entry.get("created"), entry.get("manifest")
    if isinstance(pid, int):
        return pid if created is not None and created_at(pid) == created else None
    try:
        carried = Carried(**manifest)  # type: ignore[arg-type]  # checked here
    except TypeError:
        return None
    return next((each for each in psutil.pids() if each != os.getpid() and carried.is_carried_by(each)), None)
