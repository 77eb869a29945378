"""Large digits of block characters."""

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
_LARGEST = 999  # there is no room for four figures


def big(number: int) -> list[str]:
    """Return a number in three lines of characters; more than 999 is shown as 999."""
    figures = [_FIGURES[each] for each in str(min(number, _LARGEST))]
    return [" ".join(parts) for parts in zip(*figures, strict=True)]
