"""Figures that are read from across the room."""

_FIGURES = {
    "0": ("█▀█", "█ █", "▀▀▀"),
    "1": ("▀█ ", " █ ", "▀▀▀"),
    "2": ("▀▀█", "█▀▀", "▀▀▀"),
    "3": ("▀▀█", "▀▀█", "▀▀▀"),
    "4": ("█ █", "▀▀█", "  ▀"),
    "5": ("█▀▀", "▀▀█", "▀▀▀"),
    "6": ("█▀▀", "█▀█", "▀▀▀"),
    "7": ("▀▀█", "  █", "  ▀"),
    "8": ("█▀█", "█▀█", "▀▀▀"),
    "9": ("█▀█", "▀▀█", "▀▀▀"),
}
_LARGEST = 999  # for four figures there is no room


def big(number: int) -> list[str]:
    """A number in three lines of characters; what is above 999 is shown as 999."""
    figures = [_FIGURES[each] for each in str(min(number, _LARGEST))]
    return [" ".join(parts) for parts in zip(*figures, strict=True)]
