"""Every failure of this room; it imports nothing of the project, so that any server can take it along.

StatsError
├── Unwritable        the file cannot be made, or cannot become this writer's segment
├── Refused           what lies there is no segment that fits: nothing of it is used, nothing is repaired
│   └── Unpublished   not yet: its writer has not come so far
└── Malformed         a saved state that does not say what totals were
"""


class StatsError(Exception):
    """The root of the tree; never raised itself."""


class Unwritable(StatsError):
    """The file cannot be made, or cannot become this writer's segment."""


class InvalidSegment(StatsError):
    """What lies at a path is no segment that fits; `reason` says in which way."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"cannot read statistics {path}: {reason}")
        self.reason = reason


class Unpublished(InvalidSegment):
    """There is no magic yet: its writer has not come so far, or never will."""


class Malformed(StatsError):
    """A saved state that does not say what totals were."""
