"""Messages about documents that do not parse repeat nothing that could be part of a private key."""

import re

_QUOTED = re.compile(r"""(["'`])(?:(?P<short>.{0,4}?)\1|.*?(?:\1|$))""", re.DOTALL)
_FIELD = re.compile(r"[a-z_]{1,40}")


def without_quotes(text: str) -> str:
    """Cut out of a parser's message what it quotes of its input; single characters stay."""
    cut = _QUOTED.sub(lambda match: "…" if match["short"] is None else match[0], text)
    return " ".join(cut.split())


def field_name(key: str, otherwise: str) -> str:
    """Return a key of a document that looks like the name of a field, and `otherwise` for any other text."""
    return key if _FIELD.fullmatch(key) else otherwise
