"""Redacts messages about documents that do not parse: a quote may be part of a private key."""

import re

_QUOTED = re.compile(r"""(["'`])(?:(?P<short>.{0,4}?)\1|.*?(?:\1|$))""", re.DOTALL)
_FIELD = re.compile(r"[a-z_]{1,40}")


def without_quotes(text: str) -> str:
    """Remove the quoted input from a parser's message, but for quotes of up to four characters."""
    cut = _QUOTED.sub(lambda match: "…" if match["short"] is None else match[0], text)
    return " ".join(cut.split())


def field_name(key: str, otherwise: str) -> str:
    """Return a document's key if it looks like a field name, and `otherwise` if not."""
    return key if _FIELD.fullmatch(key) else otherwise
