from pathlib import Path

import pytest

from agent.core.errors import AgentError
from agent.stats.errors import InvalidSegment, Malformed, StatsError, Unpublished, Unwritable

FAMILY = {StatsError, Unwritable, InvalidSegment, Unpublished, Malformed}


@pytest.mark.parametrize(
    ("error", "parents"),
    [
        (Unwritable, {StatsError}),
        (InvalidSegment, {StatsError}),
        (Unpublished, {StatsError, InvalidSegment}),
        (Malformed, {StatsError}),
    ],
)
def test_each_is_caught_as_its_ancestors_and_as_nothing_else(
    error: type[StatsError], parents: set[type[StatsError]]
) -> None:
    assert {each for each in FAMILY if issubclass(error, each)} == {error, *parents}


@pytest.mark.parametrize("other", [AgentError, OSError, ValueError])
def test_a_server_without_an_agent_needs_no_other_tree(other: type[Exception]) -> None:
    assert not issubclass(StatsError, other)


@pytest.mark.parametrize("kind", [InvalidSegment, Unpublished])
@pytest.mark.parametrize("path", [Path("/run/x/stats"), "/run/x/stats"])
def test_a_segment_is_named_with_its_path_and_the_reason_is_kept(kind: type[InvalidSegment], path: object) -> None:
    error = kind(path, "mode 0644, not 0600")
    assert str(error) == "cannot read statistics /run/x/stats: mode 0644, not 0600"
    assert error.reason == "mode 0644, not 0600"
