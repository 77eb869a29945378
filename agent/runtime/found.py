"""What an earlier agent left running: told from strangers by pid, start time and nonce, never by the pid alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from agent.core.epochs import State
from agent.handoff.vault import Place
from agent.host.processes import created_at

ADOPTED = frozenset({State.OPENING, State.SERVING, State.DRAINING})
"""What may have clients. An epoch before its gate has none, and one that was told to leave has left them."""


@dataclass(frozen=True, slots=True)
class Found:
    """An epoch that lives. `created`: clock ticks since boot; `places`: what it asked for; `manifest`: a descriptor."""

    number: int
    state: State
    pid: int
    created: int
    nonce: str
    base_id: int
    manifest: int
    places: frozenset[Place]


def find(entry: Mapping[str, Any]) -> Found | int | None:
    """Look for the process of an entry in the state: what can be adopted, the pid of what cannot, None if it is dead.

    An agent that was killed just after a launch could not note the pid: then it is the process with the nonce.
    """
    pid = pid_of(entry)
    if pid is None:
        return None
    try:
        found = Found(
            number=int(entry["number"]),
            state=State(entry["stage"]),
            pid=pid,
            created=int(entry["created"]),
            nonce=entry["nonce"],
            base_id=int(entry["base_id"]),
            manifest=int(entry["manifest"]),
            places=frozenset(Place(*place) for place in entry["places"]),
        )
    except (KeyError, TypeError, ValueError):
        return pid
    return found if found.state in ADOPTED else pid


def described(places: Iterable[Place]) -> list[tuple[str, str, int]]:
    """Places as they stand in the state."""
    return [(place.address, place.namespace, place.worker) for place in sorted(places)]


def pid_of(entry: Mapping[str, Any]) -> int | None:
    """The process of an entry, if it lives; never a stranger with its number."""
    pid, created, nonce = entry.get("pid"), entry.get("created"), entry.get("nonce")
    if not isinstance(nonce, str):
        return None
    if pid is None:
        return next((each for each in psutil.pids() if _has_nonce(each, nonce)), None)
    same = isinstance(pid, int) and created is not None and created_at(pid) == created
    return pid if same and _has_nonce(pid, nonce) else None


def _has_nonce(pid: int, nonce: str) -> bool:
    try:
        return f"PROXY_AGENT_NONCE={nonce}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
