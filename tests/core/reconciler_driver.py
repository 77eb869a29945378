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


def revision(name: str, config_digest: str = "shape", push_base: str = "") -> Revision:
    return Revision(name, config_digest, push_base)


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

    def ready(
        self, name: str, config_digest: str = "shape", not_before: float = float("-inf"), push_base: str = ""
    ) -> list[Effect]:
        wanted = revision(name, config_digest, push_base)
        return self.tell(on.RevisionReady(at=self.now, revision=wanted, not_before=not_before))

    def gate(self, epoch: int) -> list[Effect]:
        return self.tell(on.EpochReachedGate(at=self.now, epoch=epoch))

    def awaits(self, epoch: int, reason: str) -> list[Effect]:
        return self.tell(on.EpochAwaits(at=self.now, epoch=epoch, reason=reason))

    def judged(self, epoch: int, failure: Failure | None = None) -> list[Effect]:
        return self.tell(on.EpochJudged(at=self.now, epoch=epoch, failure=failure))

    def serves(self, epoch: int) -> list[Effect]:
        return self.tell(on.EpochServes(at=self.now, epoch=epoch))

    def pushed(self, epoch: int, failure: Failure | None = None, *, is_intact: bool = False) -> list[Effect]:
        """End the push that is under way into an epoch."""
        revision = self.core.epochs[epoch].pushing
        assert revision is not None
        event = on.EpochPushed(at=self.now, epoch=epoch, revision=revision, failure=failure, is_intact=is_intact)
        return self.tell(event)

    def exits(self, epoch: int, code: int | None = -9, failure: Failure = TRANSIENT) -> list[Effect]:
        return self.tell(on.EpochExited(at=self.now, epoch=epoch, code=code, failure=failure))

    def finds_no_memory(self, epoch: int) -> list[Effect]:
        return self.exits(epoch, None, OUT_OF_MEMORY)

    def emptied(self, epoch: int, *, all_listeners: bool = False) -> list[Effect]:
        return self.tell(on.EpochEmptied(at=self.now, epoch=epoch, all_listeners=all_listeners))

    def restart(self, *, now: bool = False) -> list[Effect]:
        return self.tell(on.RestartAsked(at=self.now, now=now))

    def pause(self, seconds: float) -> list[Effect]:
        return self.tell(on.PauseAsked(at=self.now, until=self.now + seconds))

    def drain(self) -> list[Effect]:
        return self.tell(on.DrainAsked(at=self.now))

    def stop(self, *, now: bool = False) -> list[Effect]:
        return self.tell(on.StopAsked(at=self.now, now=now))

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

    def rotate(self, name: str, config_digest: str = "shape", push_base: str = "") -> list[Effect]:
        """Rotate from a new revision to its commit; return the effects of the commit."""
        self.ready(name, config_digest, push_base=push_base)
        return self.come_to_serve(takes_pushes=bool(push_base))

    def come_to_serve(self, *, takes_pushes: bool = False) -> list[Effect]:
        candidate = self.core.candidate
        assert candidate is not None
        number = candidate.number
        self.tell(on.EpochStarted(at=self.now, epoch=number, pid=100 + number, takes_pushes=takes_pushes))
        self.gate(number)
        self.judged(number)
        return self.serves(number)


def serving(policy: Policy | None = None, push_base: str = "") -> ReconcilerDriver:
    """Return a driver in which epoch 1 serves revision `a`; it takes pushes over a `push_base`."""
    play = ReconcilerDriver(policy)
    play.rotate("a", push_base=push_base)
    play.wait(60)
    return play
