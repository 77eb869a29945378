"""The epochs' states over time, as rows of characters."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from agent.demo.journal import CANDIDATE, DRAINING, SERVING, Epoch

DEAD = "dead"  # exited without draining
GONE = "gone"
MARKS = {CANDIDATE: "░", SERVING: "█", DRAINING: "▒", DEAD: "✗", GONE: " "}
_KEPT = 100


@dataclass(slots=True)
class Life:
    """One epoch: its states in order, each with its start in monotonic seconds."""

    number: int
    steps: list[tuple[float, str]] = field(default_factory=list)
    serial: str = ""

    @property
    def state(self) -> str:
        """The current state."""
        return self.steps[-1][1]

    def become(self, state: str, at: float) -> None:
        """Record a new state. An epoch that ends without having served was dropped: it is dead."""
        if state in {DRAINING, GONE} and not self.has_served:
            state = DEAD
        if not self.steps or self.state != state:
            self.steps.append((at, state))

    @property
    def has_served(self) -> bool:
        """Whether it has ever served."""
        return any(state == SERVING for _, state in self.steps)


class Timeline:
    """Records the epochs' states from repeated observations."""

    def __init__(self) -> None:
        self.lives: dict[int, Life] = {}

    def observe(self, epochs: Iterable[Epoch], at: float) -> None:
        """Record the states at a moment; an epoch no longer listed is gone or dead."""
        now = {each.number: each.state for each in epochs}
        for number in now.keys() - self.lives.keys():
            self.lives[number] = Life(number)
        for number, life in self.lives.items():
            if number in now:
                life.become(now[number], at)
            elif life.state not in {GONE, DEAD}:
                life.become(DEAD if life.state == SERVING else GONE, at)
        for number in sorted(self.lives)[:-_KEPT]:
            del self.lives[number]

    def serves(self, number: int | None, serial: str) -> None:
        """Record an epoch's certificate."""
        if number in self.lives:
            self.lives[number].serial = serial

    def latest(self, count: int) -> list[Life]:
        """Return the newest epochs, newest first."""
        return [self.lives[number] for number in sorted(self.lives, reverse=True)[:count]]


def row(life: Life, end: float, cell: float, width: int) -> str:
    """Return an epoch's states until `end`, in `width` cells of `cell` seconds each.

    A short state still gets a cell. The cells lie on a grid of absolute time, so that all rows move together.
    """
    start = int(end // cell) - width + 1
    marks = [" "] * width
    free = int(life.steps[0][0] // cell) - start  # the first free cell
    for (since, state), (until, _) in pairwise([*life.steps, (end + cell, GONE)]):
        if state == GONE:
            break
        first = max(free, int(since // cell) - start)
        free = first + 1 if state == DEAD else max(int(until // cell) - start, first + 1)
        for place in range(max(first, 0), min(free, width)):
            marks[place] = MARKS[state]
    return "".join(marks)
