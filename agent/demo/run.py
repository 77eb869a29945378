"""Runs the demonstration: start, load, rotations and faults, summary."""

import asyncio
import contextlib
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Collection, Coroutine, Iterator
from typing import Any

from agent.core.errors import MachineError
from agent.demo.authority import write_pair
from agent.demo.captions import plural
from agent.demo.environment import Environment
from agent.demo.faults import Faults
from agent.demo.journal import SERVING, in_state
from agent.demo.load import CLIENTS
from agent.demo.results import Rotation
from agent.demo.settings import Settings
from agent.demo.summary import summary
from agent.demo.view import View
from agent.demo.watch import Watch

_START_TIMEOUT = 60.0
_PROOF_TIMEOUT = 60.0
_LOOK_TIMEOUT = 5.0  # for a rotation to be seen before the next fault
_GRACE = 10.0  # seconds over `length` on a slow machine
_FINISH_TIMEOUT = 15.0  # for the last requests, each of which may take 10 s
_LOG_LINES = 12
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Run:
    """One demonstration. `run` returns whether it proved its claim."""

    def __init__(self, settings: Settings, view: View) -> None:
        self._settings = settings
        self._view = view
        self._asked_to_end = asyncio.Event()

    async def run(self) -> bool:
        """Run to the end, or to the first signal. Raises `MachineError` if it cannot run."""
        with self._heeding_signals():
            async with Environment(self._settings) as scene:
                watch = Watch(scene, self._view.event)
                watch.start()
                try:
                    await self._play(scene, watch)
                finally:
                    watch.close()
                    self._view.close()
            lines, good = summary(watch.score)
            self._view.say(lines, good=good)
            return good

    @contextlib.contextmanager
    def _heeding_signals(self) -> Iterator[None]:
        """Handle signals: the first one ends the run in order, the second one cancels it."""
        loop, me = asyncio.get_running_loop(), asyncio.current_task()
        assert me is not None

        def stop() -> None:
            if self._asked_to_end.is_set():
                me.cancel()
            self._asked_to_end.set()

        for number in _SIGNALS:
            loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    async def _play(self, scene: Environment, watch: Watch) -> None:
        needed = {"agent": scene.agent, "service behind the proxy": scene.origin}
        lives = [_outlives(process, name, scene) for name, process in needed.items() if process is not None]
        draws = self._view.draw(self._settings, watch)
        beside = [asyncio.create_task(each) for each in (self._asked_to_end.wait(), draws, *lives)]
        try:
            if await _unless(beside, self._begins(watch)):
                await self._under_load(scene, watch, beside)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _under_load(self, scene: Environment, watch: Watch, beside: "list[asyncio.Task[Any]]") -> None:
        follower = asyncio.create_task(watch.follow(await scene.start_clients()))
        beside.append(follower)
        await _unless(beside, self._rotations(watch))
        if follower.done():
            message = "cannot continue: the clients ended"
            raise MachineError(message)
        scene.stop_clients()
        await _within(follower, _FINISH_TIMEOUT)

    async def _begins(self, watch: Watch) -> None:
        await watch.until(lambda: in_state(watch.epochs, SERVING) is not None, _START_TIMEOUT)
        if in_state(watch.epochs, SERVING) is None:
            message = f"cannot begin: no epoch serves after {_START_TIMEOUT:g} s; {_story_of(watch.scene)}"
            raise MachineError(message)
        watch.tell(f"{plural(CLIENTS, 'client')} start, at full speed")

    async def _rotations(self, watch: Watch) -> None:
        """Rotate every `every` seconds, with a fault at each second rotation, until time is over."""
        await watch.until(lambda: watch.score.served > 0, _START_TIMEOUT)
        began, every = time.monotonic(), self._settings.every
        self._view.began(began)
        turn = _Turn(watch)
        faults = Faults(watch, watch.scene.authority, turn.rotate, every / 2)
        for number in range(1, max(1, round(self._settings.length / every)) + 1):
            due = began + (number - 1) * every
            await _sleep_until(due)
            fault = faults.next() if number % 2 == 0 else None
            if fault is not None and fault.rotates:
                await fault.do()
            else:
                turn.rotate()
            if fault is not None and not fault.rotates:
                await _sleep_until(due + every / 2)
                await watch.until(turn.was_seen, _LOOK_TIMEOUT)
                await fault.do()
            if time.monotonic() >= began + self._settings.length + _GRACE:
                break
        await _sleep_until(began + self._settings.length)
        await watch.until(turn.was_seen, _LOOK_TIMEOUT)
        await watch.until(lambda: not watch.score.proves_nothing(), _PROOF_TIMEOUT)  # takes longer on a slow machine


class _Turn:
    """Writes one pair after another."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._last: Rotation | None = None

    def rotate(self) -> Rotation:
        """Write a new pair to the agent's directory."""
        pair = self._watch.scene.authority.issue()
        write_pair(self._watch.scene.certs, pair)
        self._last = Rotation(pair.serial, time.monotonic())
        self._watch.score.rotations.append(self._last)
        return self._last

    def was_seen(self) -> bool:
        """Return whether a client has seen the newest one."""
        return self._last is None or self._last.seen is not None


async def _outlives(process: Process, name: str, scene: Environment) -> None:
    """Raise `MachineError` when a process exits that is needed to the end."""
    code = await process.wait()
    message = f"cannot continue: the {name} ended with {code}; {_story_of(scene)}"
    raise MachineError(message)


def _story_of(scene: Environment) -> str:
    """Return the end of the agent's log, for an error message."""
    return "\n  ".join(["the agent's log ends with", *scene.log.tail(_LOG_LINES)])


async def _unless(ends: Collection["asyncio.Task[Any]"], act: Coroutine[Any, Any, None]) -> bool:
    """Run `act` until it or one of `ends` is done, and raise errors; return whether `act` was."""
    task = asyncio.create_task(act)
    try:
        done, _ = await asyncio.wait([task, *ends], return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
    for each in done:
        each.result()
    await asyncio.gather(task, return_exceptions=True)
    return task in done


async def _within(task: "asyncio.Task[None]", timeout: float) -> None:
    """Await a task; cancel it at the timeout."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(task, timeout)


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))
