from collections.abc import Callable

import pytest

from agent.core.yaml_depth import DEEPEST, first_beyond


def flow(levels: int) -> str:
    return "[" * levels + "]" * levels


def block(levels: int) -> str:
    return "\n".join(" " * level + "a:" for level in range(levels))


@pytest.mark.parametrize("levels", [7, 900, 1_500, 100_000])  # libyaml since PyYAML 6.0.4 itself stops at 1,000
@pytest.mark.parametrize("text", [flow, lambda levels: "[" * levels], ids=["closed", "open"])
def test_the_first_collection_beyond_the_limit_is_found(text: Callable[[int], str], levels: int) -> None:
    assert first_beyond(6, text(levels)) == (0, 6)


def test_a_collection_that_ended_does_not_count_for_those_after_it() -> None:
    assert first_beyond(6, "[" + "[[]]," * 9 + "]") is None
    assert first_beyond(4, "[[[[],[[]]]]]") == (0, 7)


def test_the_deepest_that_is_read_is_two_hundred_levels() -> None:
    assert first_beyond(DEEPEST, flow(200)) is None
    assert first_beyond(DEEPEST, flow(201)) == (0, 200)


@pytest.mark.parametrize("levels", [7, 1_500])
def test_so_is_that_of_a_block(levels: int) -> None:
    assert first_beyond(6, block(levels)) == (6, 6)


@pytest.mark.parametrize(
    "text",
    [flow(6), "[" * 6, block(6), "", "a: b: c", "a: \0", "a: " + "[]," * 9, "'" + "[" * 1_500 + "'"],
    ids=["flow", "open", "block", "nothing", "no YAML", "a forbidden character", "side by side", "quoted"],
)
def test_anything_else_is_left_to_the_reader(text: str) -> None:
    assert first_beyond(6, text) is None
