"""The faults, injected in a fixed order: each one is done, awaited and reported.

garbage, kill, foreign key, freeze, garbage and kill, kill of a candidate; then from the start again.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from agent.demo.authority import CHAIN, Authority, write_key
from agent.demo.captions import short
from agent.demo.journal import CANDIDATE, SERVING, Epoch, in_state
from agent.demo.results import Kill, Rotation
from agent.demo.watch import Watch

BAD_CERTIFICATE, BAD_KEY, KILL, KILLED_CANDIDATE, FREEZE = (
    "bad certificate", "bad key", "kill", "killed candidate", "frozen candidate",
)  # fmt: skip
KILL_LIMIT = 4  # in KILL_WINDOW: the agent restarts at once after up to five crashes, then backs off
KILL_WINDOW = 61.0
_LONGEST_FREEZE = 1.0
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault. `rotates`: it begins with a rotation and happens to the new epoch."""

    do: Callable[[], Awaitable[None]]
    kills: bool = False
    rotates: bool = False


class Faults:
    """Injects faults. `rotate` writes a new pair; `freeze_time`: seconds to stop a candidate."""

    def __init__(self, watch: Watch, authority: Authority, rotate: Callable[[], Rotation], freeze_time: float) -> None:
        self._watch = watch
        self._score = watch.score
        self._authority = authority
        self._rotate = rotate
        self._tell = watch.tell
        self._freeze_time = min(freeze_time, _LONGEST_FREEZE)
        self._next = 0
        self._order = [
            Fault(self._garbage),
            Fault(self._kill, kills=True),
            Fault(self._foreign_key),
            Fault(self._freeze, rotates=True),
            Fault(self._garbage_and_kill, kills=True),
            Fault(self._kill_candidate, rotates=True),
        ]

    @property
    def _certs(self) -> Path:
        return self._watch.scene.certs

    def next(self) -> Fault:
        """Return the next fault; skip kills while the agent would delay a restart."""
        while True:
            fault = self._order[self._next % len(self._order)]
            self._next += 1
            if not fault.kills or self._may_kill():
                return fault

    def _may_kill(self) -> bool:
        since = time.monotonic() - KILL_WINDOW
        return sum(kill.struck > since for kill in self._score.kills) < KILL_LIMIT

    # Files on disk

    async def _garbage(self) -> None:
        (self._certs / CHAIN).write_text("garbage\n")
        self._score.faults[BAD_CERTIFICATE] += 1
        self._tell(f"the certificate on disk is garbage: serial {await self._still_served()} still served")

    async def _foreign_key(self) -> None:
        write_key(self._certs, self._authority.issue())
        self._score.faults[BAD_KEY] += 1
        self._tell(f"the key on disk fits no certificate: serial {await self._still_served()} still served")

    async def _still_served(self) -> str:
        written = time.monotonic()
        await self._watch.until(lambda: self._score.last_seen > written, _PATIENCE)
        return short(self._score.last_serial)

    # Processes

    async def _garbage_and_kill(self) -> None:
        (self._certs / CHAIN).write_text("garbage\n")
        self._score.faults[BAD_CERTIFICATE] += 1
        await self._kill("and garbage is on disk")

    async def _kill(self, besides: str = "the clients in it are cut") -> None:
        serving = await self._serving()
        if serving is None or serving.pid is None:
            return
        kill = Kill(serving.number, time.monotonic())
        self._score.kills.append(kill)
        self._tell(f"epoch {serving.number} is killed (SIGKILL) while it serves, {besides}")
        self._score.faults[KILL] += await self._strike(serving, _kill)
        kill.gone = time.monotonic()

    async def _kill_candidate(self) -> None:
        candidate = await self._fresh_candidate()
        if candidate is not None:
            self._tell(f"epoch {candidate.number} is killed (SIGKILL) before it serves: no client is affected")
            self._score.faults[KILLED_CANDIDATE] += await self._strike(candidate, _kill)

    async def _freeze(self) -> None:
        candidate = await self._fresh_candidate()
        if candidate is not None:
            self._tell(f"epoch {candidate.number} is frozen before it serves: the previous one still serves")
            self._score.faults[FREEZE] += await self._strike(candidate, self._freeze_for_a_while)
            self._tell(f"epoch {candidate.number} continues")

    async def _freeze_for_a_while(self, pidfd: int) -> None:
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        try:
            await asyncio.sleep(self._freeze_time)
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)

    async def _strike(self, epoch: Epoch, how: Callable[[int], Awaitable[None]]) -> bool:
        """Act on an epoch's process by its pidfd; return whether it was alive until the end of that.

        The pid came from a file: verify first that the process works in the agent's directory.
        """
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            assert epoch.pid is not None
            pidfd = os.pidfd_open(epoch.pid)
            try:
                if Path(f"/proc/{epoch.pid}/cwd").samefile(self._watch.scene.directory):
                    await how(pidfd)
                    return True
            finally:
                os.close(pidfd)
        return False

    async def _serving(self) -> Epoch | None:
        await self._watch.until(lambda: in_state(self._watch.epochs, SERVING) is not None, _PATIENCE)
        return in_state(self._watch.epochs, SERVING)

    async def _fresh_candidate(self) -> Epoch | None:
        """Rotate; return the new epoch as soon as it has a process, long before it can serve."""
        await self._serving()  # else the next epoch is the last good one, and every client waits for it
        newest = max((each.number for each in self._watch.epochs), default=0)
        self._rotate().hindered = True
        await self._watch.until(lambda: self._newer(newest) is not None, _PATIENCE)
        return self._newer(newest)

    def _newer(self, than: int) -> Epoch | None:
        candidate = in_state(self._watch.epochs, CANDIDATE)
        return candidate if candidate is not None and candidate.number > than else None


async def _kill(pidfd: int) -> None:
    """Kill a process and wait until it is dead: with much to close, that takes a while."""
    dead: asyncio.Event = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, dead.set)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await dead.wait()
    finally:
        loop.remove_reader(pidfd)
