"""Drives a reconciler: events go in, effects come out, and the test controls the time."""

from agent.core import effects as do
from agent.core import events as on
from agent.core.effects import Effect
from agent.core.events import Event, Failure, FailureKind
from agent.core.policy import Policy
from agent.core.reconciler import Reconciler
from agent.core.revision import Revision

TRANSIENT = Failure(FailureKind.TRANSIENT, "it fell over")
PERMANENT = Failure(FailureKind.PERMANENT, "it does not parse")
OUT_OF_MEMORY = Failure(FailureKind.OUT_OF_MEMORY, "there is no memory for epoch 2")


def revision(name: str, config_digest: str = "shape") -> Revision:
    return Revision(name, config_digest)


class ReconcilerDriver:
    """Drives one reconciler. Log messages are omitted from the returned effects."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.core = Reconciler(policy or Policy(), jitter=lambda: 1.0)
        self.now = 1000.0
        self.notes: list[do.LogMessage] = []

    def tell(self, event: Event) -> list[Effect]:
        effects = self.core.handle(event)
        self.notes += [effect for effect in effects if isinstance(effect, do.LogMessage)]
        return [effect for effect in effects if not isinstance(effect, do.LogMessage)]

    def ready(self, name: str, config_digest: str = "shape", not_before: float = float("-inf")) -> list[Effect]:
        return self.tell(on.RevisionReady(at=self.now, revision=revision(name, config_digest), not_before=not_before))

    def gate(self, epoch: int) -> list[Effect]:
        return self.tell(on.EpochReachedGate(at=self.now, epoch=epoch))

    def awaits(self, epoch: int, reason: str) -> list[Effect]:
        return self.tell(on.EpochAwaits(at=self.now, epoch=epoch, reason=reason))

    def judged(self, epoch: int, failure: Failure | None = None) -> list[Effect]:
        return self.tell(on.EpochJudged(at=self.now, epoch=epoch, failure=failure))

    def serves(self, epoch: int) -> list[Effect]:
        return self.tell(on.EpochServes(at=self.now, epoch=epoch))

    def exits(self, epoch: int, code: int | None = -9, failure: Failure = TRANSIENT) -> list[Effect]:
        return self.tell(on.EpochExited(at=self.now, epoch=epoch, code=code, failure=failure))

    def finds_no_memory(self, epoch: int) -> list[Effect]:
        return self.exits(epoch, None, OUT_OF_MEMORY)

    def emptied(self, epoch: int) -> list[Effect]:
        return self.tell(on.EpochEmptied(at=self.now, epoch=epoch))

    def restart(self, *, now: bool = False) -> list[Effect]:
        return self.tell(on.RestartAsked(at=self.now, now=now))

    def pause(self, seconds: float) -> list[Effect]:
        return self.tell(on.PauseAsked(at=self.now, until=self.now + seconds))

    def drain(self) -> list[Effect]:
        return self.tell(on.DrainAsked(at=self.now))

    def stop(self) -> list[Effect]:
        return self.tell(on.StopAsked(at=self.now))

    def urgent(self, at: float, expires_at: float) -> list[Effect]:
        return self.tell(on.ExpiryForeseen(at=self.now, urgent_at=at, expires_at=expires_at))

    def wait(self, seconds: float) -> list[Effect]:
        """Let time pass, stopping at every deadline on the way."""
        until, done = self.now + seconds, list[Effect]()
        while self.core.deadline is not None and self.core.deadline <= until:
            self.now = self.core.deadline
            done += self.tell(on.TimePassed(at=self.now))
        self.now = until
        return done

    def rotate(self, name: str, config_digest: str = "shape") -> list[Effect]:
        """Rotate from a new revision to its commit; return the effects of the commit."""
        self.ready(name, config_digest)
        return self.come_to_serve()

    def come_to_serve(self) -> list[Effect]:
        candidate = self.core.candidate
        assert candidate is not None
        self.tell(on.EpochStarted(at=self.now, epoch=candidate.number, pid=100 + candidate.number))
        self.gate(candidate.number)
        self.judged(candidate.number)
        return self.serves(candidate.number)


def serving(policy: Policy | None = None) -> ReconcilerDriver:
    """Return a driver in which epoch 1 serves revision `a`."""
    play = ReconcilerDriver(policy)
    play.rotate("a")
    play.wait(60)
    return play
