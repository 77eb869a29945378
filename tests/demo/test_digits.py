import pytest

from agent.demo.digits import big


@pytest.mark.parametrize(
    ("number", "lines"),
    [
        (0, ["█▀█", "█ █", "▀▀▀"]),
        (17, ["▀█  ▀▀█", " █    █", "▀▀▀   ▀"]),
        (123, ["▀█  ▀▀█ ▀▀█", " █  █▀▀ ▀▀█", "▀▀▀ ▀▀▀ ▀▀▀"]),
        (456, ["█ █ █▀▀ █▀▀", "▀▀█ ▀▀█ █▀█", "  ▀ ▀▀▀ ▀▀▀"]),
        (98, ["█▀█ █▀█", "▀▀█ █▀█", "▀▀▀ ▀▀▀"]),
    ],
)
def test_a_number_is_drawn_in_three_lines(number: int, lines: list[str]) -> None:
    assert big(number) == lines


@pytest.mark.parametrize("number", [999, 1000, 10**30])
def test_there_is_no_room_for_a_fourth_figure(number: int) -> None:
    assert big(number) == ["█▀█ █▀█ █▀█", "▀▀█ ▀▀█ ▀▀█", "▀▀▀ ▀▀▀ ▀▀▀"]


def test_no_two_figures_look_alike() -> None:
    assert len({tuple(big(number)) for number in range(10)}) == 10
