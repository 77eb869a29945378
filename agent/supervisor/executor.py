"""Executes the reconciler's effects, and logs those of interest to an operator."""

import logging
from collections.abc import Callable
from typing import assert_never

from agent.core import effects as do
from agent.core import events as on
from agent.core.effects import Effect, LogTopic
from agent.core.epochs import Epoch
from agent.core.events import Event
from agent.host import clock
from agent.host.log import log_event
from agent.host.tasks import Tasks
from agent.inputs.revisions import LoadedRevision, RevisionStore
from agent.processes.epoch_process import EpochProcess
from agent.supervisor.endpoints import Endpoints
from agent.supervisor.service import Service

_URGENT_SHARE = 10  # a leaf certificate in the last tenth of its life makes a rotation urgent
_LEVELS = {
    LogTopic.REFUSED: logging.ERROR,
    LogTopic.DOWN: logging.ERROR,
    LogTopic.REPLACED: logging.ERROR,
    LogTopic.RETRY: logging.WARNING,
    LogTopic.SHORT: logging.WARNING,
    LogTopic.PUSH_FAILED: logging.WARNING,
    LogTopic.AWAITED: logging.WARNING,
}


class Executor:
    """Executes effects one by one. `post` queues an event."""

    def __init__(
        self,
        service: Service,
        revisions: RevisionStore,
        endpoints: Endpoints,
        post: Callable[[Event], None],
    ) -> None:
        self._post = post
        self._core = service.core
        self._processes = service.processes
        self._inputs = service.inputs
        self._revisions = revisions
        self._endpoints = endpoints
        self._tasks = Tasks()

    async def close(self) -> None:
        """Cancel the background tasks."""
        await self._tasks.close()

    def execute(self, effect: Effect) -> None:  # noqa: C901, PLR0912  # one case for each kind of effect
        """Log an effect if it deserves a line, and execute it."""
        match effect:
            case do.StartEpoch(epoch, revision):
                level = logging.DEBUG if effect.again else logging.INFO
                text = f"epoch {epoch} starts from revision {revision.name}"
                log_event(level, "epoch.starting", text, stated={"revision": revision.name}, epoch=epoch)
                self._processes.start(epoch, revision, validate=effect.validate)
            case do.PushRevision(epoch, revision):
                again = " again, to undo a push" if effect.restores else ""
                text = f"revision {revision.name} is pushed into epoch {epoch}{again}"
                log_event(logging.INFO, "push.started", text, stated={"revision": revision.name}, epoch=epoch)
                self._processes.push(epoch, revision, restores=effect.restores)
            case do.CommitPush():
                self._commit_push(effect)
            case do.JudgeEpoch():
                self._processes.judge(effect.epoch)
            case do.OpenGate():
                self._processes.open_gate(effect.epoch)
            case do.DropEpoch(epoch, reason):
                text = f"epoch {epoch} is dropped: {reason}"
                log_event(logging.INFO, "epoch.dropped", text, stated={"reason": reason}, epoch=epoch)
                self._processes.drop(epoch)
            case do.CommitEpoch():
                self._commit(effect.epoch)
            case do.DrainEpoch(epoch):
                log_event(logging.INFO, "epoch.draining", f"epoch {epoch} drains", epoch=epoch)
                self._processes.drain(epoch, stopping=self._core.stopping)
            case do.AwaitEmpty():
                self._processes.await_empty(effect.epoch)
            case do.EndEpoch():
                self._processes.end(effect.epoch)
            case do.KillEpoch(epoch):
                text = f"epoch {epoch} did not exit on SIGTERM: it is killed"
                log_event(logging.WARNING, "epoch.killed", text, epoch=epoch)
                self._processes.kill(epoch)
            case do.RefuseClients():
                text = "no epoch serves yet: clients are refused until one does"
                log_event(logging.ERROR, "service.refused", text)
                self._processes.refuse_clients()
            case do.LogMessage():
                level = _LEVELS.get(effect.topic, logging.INFO)
                cut = self._cut(effect)
                stated = {} if cut is None else {"connections": cut}
                log_event(level, effect.topic.value, f"{effect.text}{_counted(cut)}", stated=stated, epoch=effect.epoch)
                self._heed(effect.topic)
            case do.Finish():
                raise AssertionError(effect)  # the supervisor's loop handles it
            case _:
                assert_never(effect)

    def _cut(self, note: do.LogMessage) -> int | None:
        """Return how many connections a drain cuts, if this message is about that and it is known."""
        process = None if note.epoch is None else self._processes.epochs.get(note.epoch)
        return None if note.topic is not LogTopic.DRAIN_CUT or process is None else process.clients

    def _heed(self, topic: LogTopic) -> None:
        """Pass a refused configuration to the loader before it reads the disk again."""
        refused = self._core.desired.refused
        if topic is not LogTopic.REFUSED or refused is None:
            return
        if not refused.pinned:
            self._inputs.loader.refuse(self._revisions[refused.revision], refused.reason)
        self._inputs.reload_soon()

    def _commit(self, number: int) -> None:
        epoch = self._core.epochs[number]
        serving = self._processes.commit(number)
        self._inputs.loader.serves(serving.loaded)
        self._tasks.spawn(self._endpoints.route_to(serving), "console")
        self._foresee_expiry(serving.loaded)
        log_event(logging.INFO, "epoch.serving", _describe(epoch, serving), stated=_facts(epoch, serving), epoch=number)

    def _commit_push(self, effect: do.CommitPush) -> None:
        serving = self._processes.commit_push(effect.epoch, effect.revision)
        self._inputs.loader.serves(serving.loaded)
        self._foresee_expiry(serving.loaded)

    def clock_stepped(self) -> None:
        """Recompute what depends on the calendar."""
        self._inputs.timing.clock_stepped()
        self._inputs.reload_soon()
        if self._processes.serving is not None:
            self._foresee_expiry(self._processes.serving.loaded)

    def _foresee_expiry(self, loaded: LoadedRevision) -> None:
        """Post when the first served leaf certificate becomes urgent and when it expires.

        The reconciler has no calendar: it gets both as monotonic times.
        """
        now, at = clock.calendar(), clock.monotonic()
        leaves = loaded.selection.leaves.values()
        ends = [
            ((leaf.not_after - now).total_seconds(), (leaf.not_after - leaf.not_before).total_seconds())
            for leaf in leaves
        ]
        expires_at = min((at + left for left, _ in ends), default=None)
        urgent_at = min((at + left - life / _URGENT_SHARE for left, life in ends), default=None)
        self._post(on.ExpiryForeseen(at=at, urgent_at=urgent_at, expires_at=expires_at))


def _counted(connections: int | None) -> str:
    return "" if connections is None else f" ({connections:,} connection{'' if connections == 1 else 's'})"


def _facts(epoch: Epoch, serving: EpochProcess) -> dict[str, object]:
    """Return what serves now as attributes of its log event."""
    leaves = serving.loaded.selection.leaves.values()
    return {
        "pid": epoch.pid,
        "revision": epoch.revision.name,
        "adopted": serving.is_adopted(),
        "duration": round(clock.monotonic() - epoch.started_at, 6),
        "certificates": [{"serial": leaf.serial_hex, "not_after": leaf.not_after.isoformat()} for leaf in leaves],
    }


def _describe(epoch: Epoch, serving: EpochProcess) -> str:
    leaves = [
        f"serial {leaf.serial_hex} until {leaf.not_after:%Y-%m-%d %H:%M}Z"
        for leaf in serving.loaded.selection.leaves.values()
    ]
    shown = "; ".join(leaves[:2]) + (f" and {len(leaves) - 2} more" if len(leaves) > 2 else "")
    took = f"{(clock.monotonic() - epoch.started_at) * 1000:.0f} ms after its start"
    how = "adopted from an earlier agent" if serving.is_adopted() else took
    return f"epoch {epoch.number} (pid {epoch.pid}) serves, {how}" + (f"; {shown}" if shown else "")
