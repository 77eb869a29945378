"""The life of one epoch, as a table.

Everything that may happen to an epoch, in every state it can be in, stands in `TRANSITIONS`. A cell that is missing
cannot happen: asking for it raises `InvalidTransition`, which is a bug and not an operator's mistake. The picture of
the states in the README is drawn from this table and from nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from agent.core.revision import Revision
from agent.core.triggers import Trigger


class InvalidTransition(Exception):
    """A step that the table does not know: a bug in this program."""


class State(StrEnum):
    """Where an epoch is in its life."""

    STARTING = "starting"  # a candidate on its way to the gate
    WAITING = "waiting"  # a candidate at the gate, being judged
    OPENING = "opening"  # a candidate whose gate is open and who has not yet said that it serves
    SERVING = "serving"
    DRAINING = "draining"
    TERMINATING = "leaving"  # told to end, or killed; not yet dead
    GONE = "gone"

    @property
    def word(self) -> str:
        """The state in the four words that logs, metrics and people use."""
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
    """What can happen to an epoch."""

    REACH_GATE = "reaches the gate"
    PASS = "is judged good"  # noqa: S105  # a step, not a password
    SERVE = "says it serves"
    DRAIN = "is superseded"
    END = "is told to end"
    EXIT = "exits"


TRANSITIONS: Mapping[State, Mapping[Step, State]] = MappingProxyType(
    {
        State.STARTING: {Step.REACH_GATE: State.WAITING, Step.END: State.TERMINATING, Step.EXIT: State.GONE},
        State.WAITING: {Step.PASS: State.OPENING, Step.END: State.TERMINATING, Step.EXIT: State.GONE},
        State.OPENING: {Step.SERVE: State.SERVING, Step.END: State.TERMINATING, Step.EXIT: State.GONE},
        State.SERVING: {Step.DRAIN: State.DRAINING, Step.END: State.TERMINATING, Step.EXIT: State.GONE},
        State.DRAINING: {Step.END: State.TERMINATING, Step.EXIT: State.GONE},
        # What a dying epoch said before it heard of its end changes nothing.
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
    """One generation of the proxy. `deadline` is when its present state is no longer accepted (monotonic seconds)."""

    number: int
    revision: Revision
    started_at: float
    state: State = State.STARTING
    pid: int | None = None
    deadline: float | None = None
    is_empty: bool = False  # it drains and has no connection any more
    trigger: Trigger = Trigger.START  # what it was started for
    awaits: str = ""  # why a candidate that lives is not whole yet

    def apply(self, step: Step) -> None:
        """Go where the table says; raise `InvalidTransition` where it says nothing."""
        try:
            self.state = TRANSITIONS[self.state][step]
        except KeyError:
            message = f"epoch {self.number} {step.value} while it is {self.state.value}"
            raise InvalidTransition(message) from None


def picture() -> str:
    """Draw the table as a Mermaid state diagram, the one in the README."""
    lines = ["stateDiagram-v2", "    [*] --> starting"]
    for state, row in TRANSITIONS.items():
        lines += [f"    {state} --> {target}: {step}" for step, target in row.items() if target != state]
    return "\n".join([*lines, "    gone --> [*]"])
