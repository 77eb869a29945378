"""The state machine of an epoch.

`TRANSITIONS` holds every step allowed in each state. Any other step raises `InvalidTransition`, which is a bug and not
an operator's mistake. The state diagram in the README is generated from this table alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from agent.core.revision import Revision
from agent.core.triggers import Trigger


class InvalidTransition(Exception):
    """A step that `TRANSITIONS` does not allow: a bug in this program."""


class State(StrEnum):
    """The state of an epoch."""

    STARTING = "starting"  # a candidate that has not reached the gate
    WAITING = "waiting"  # a candidate at the gate, being checked
    OPENING = "opening"  # a candidate that has passed the gate and not yet reported that it serves
    SERVING = "serving"
    DRAINING = "draining"
    TERMINATING = "leaving"  # received SIGTERM or SIGKILL; not yet exited
    GONE = "gone"

    @property
    def word(self) -> str:
        """The state as logs and metrics show it: one of four names."""
        return _WORDS[self]


_WORDS = {
    State.STARTING: "candidate",
    State.WAITING: "candidate",
    State.OPENING: "candidate",
    State.SERVING: "serving",
    State.DRAINING: "draining",
    State.TERMINATING: "draining",
    State.GONE: "gone",
}


class Step(StrEnum):
    """A step in the life of an epoch."""

    REACH_GATE = "reaches the gate"
    PASS = "passes the check"  # noqa: S105  # a step, not a password
    SERVE = "reports that it serves"
    DRAIN = "is superseded"
    END = "is terminated"
    EXIT = "exits"


TRANSITIONS: Mapping[State, Mapping[Step, State]] = MappingProxyType(
    {
        State.STARTING: {Step.REACH_GATE: State.WAITING, Step.END: State.TERMINATING, Step.EXIT: State.GONE},
        State.WAITING: {Step.PASS: State.OPENING, Step.END: State.TERMINATING, Step.EXIT: State.GONE},
        State.OPENING: {Step.SERVE: State.SERVING, Step.END: State.TERMINATING, Step.EXIT: State.GONE},
        State.SERVING: {Step.DRAIN: State.DRAINING, Step.END: State.TERMINATING, Step.EXIT: State.GONE},
        State.DRAINING: {Step.END: State.TERMINATING, Step.EXIT: State.GONE},
        # Messages sent before the epoch received its signal change nothing.
        State.TERMINATING: {
            Step.REACH_GATE: State.TERMINATING,
            Step.SERVE: State.TERMINATING,
            Step.END: State.TERMINATING,
            Step.EXIT: State.GONE,
        },
        State.GONE: {},
    }
)

CANDIDATE = frozenset({State.STARTING, State.WAITING, State.OPENING})


@dataclass(slots=True)
class Epoch:
    """One generation of the proxy. `deadline` limits its current state (monotonic seconds)."""

    number: int
    revision: Revision
    started_at: float
    state: State = State.STARTING
    pid: int | None = None
    deadline: float | None = None
    is_empty: bool = False  # it drains and has no open connections
    trigger: Trigger = Trigger.START  # what it was started for
    awaits: str = ""  # what a running candidate still waits for
    takes_pushes: bool = False  # certificates can be pushed into it
    pushing: Revision | None = None  # the revision whose push is under way
    pushes: int = 0  # how many revisions were pushed into it and serve or served
    is_torn: bool = False  # a push failed and could not be undone: it may serve parts of two revisions

    def apply(self, step: Step) -> None:
        """Change the state by `TRANSITIONS`. Raises `InvalidTransition` for any other step."""
        try:
            self.state = TRANSITIONS[self.state][step]
        except KeyError:
            message = f"epoch {self.number} {step.value} while it is {self.state.value}"
            raise InvalidTransition(message) from None


def picture() -> str:
    """Return `TRANSITIONS` as a Mermaid state diagram, the one in the README."""
    lines = ["stateDiagram-v2", "    [*] --> starting"]
    for state, row in TRANSITIONS.items():
        lines += [f"    {state} --> {target}: {step}" for step, target in row.items() if target != state]
    return "\n".join([*lines, "    gone --> [*]"])
