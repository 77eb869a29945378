"""The exceptions of `agent.stats`, without project imports, so that any server can use them.

StatsError
├── Unwritable        the file cannot be created, or cannot become this writer's segment
├── InvalidSegment    the file is not a valid segment: none of it is used, nothing is repaired
│   └── Unpublished   its writer has not published it yet
└── Malformed         a saved state that does not describe totals
"""


class StatsError(Exception):
    """The root of the tree; never raised itself."""


class Unwritable(StatsError):
    """The file cannot be created, or cannot become this writer's segment."""


class InvalidSegment(StatsError):
    """The file at a path is not a valid segment, because of `reason`."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"cannot read statistics {path}: {reason}")
        self.reason = reason


class Unpublished(InvalidSegment):
    """There is no magic yet: the writer has not published the segment, or never will."""


class Malformed(StatsError):
    """A saved state that does not describe totals."""
