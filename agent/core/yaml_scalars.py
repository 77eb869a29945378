"""Parses plain YAML scalars as Envoy does: by the rules of yaml-cpp.

A plain scalar is a boolean, an integer, null, or else text: `n` is false, 010 is eight, and 0.5 is text, which a
numeric field parses as a number. A quoted scalar is text.
"""

import re

_LARGEST_EXACT = (1 << 53) - 1  # that a JSON number holds
_LARGEST_INTEGER = 1 << 63
_LONGEST_INTEGER = 19  # its decimal digits
_TRUE = frozenset(spelled for word in ("y", "yes", "true", "on") for spelled in (word, word.upper(), word.title()))
_FALSE = frozenset(spelled for word in ("n", "no", "false", "off") for spelled in (word, word.upper(), word.title()))
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_WHOLE = re.compile(r"([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")


def plain_scalar(word: str) -> bool | int | str | None:
    """Return the value of a plain scalar; an integer that JSON cannot hold exactly is text."""
    if word in _NULL:
        return None
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    whole = _WHOLE.fullmatch(word)
    if whole is None:
        return word
    digits = whole[2]
    base = 16 if digits[:2].lower() == "0x" else 8 if digits[0] == "0" else 10
    if base == 10 and len(digits) > _LONGEST_INTEGER:
        return word  # int() raises ValueError for thousands of digits
    number = int(digits, base) * (-1 if whole[1] == "-" else 1)
    if abs(number) <= _LARGEST_EXACT:
        return number
    return str(number) if -_LARGEST_INTEGER <= number < _LARGEST_INTEGER else word
