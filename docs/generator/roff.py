"""Writes the macros of man(7)."""

import re
from collections.abc import Iterable


def title(name: str, section: int, kind: str) -> str:
    """Return the first line of a page; `kind` is the title of the manual's section."""
    return f'.TH {escaped(name.upper())} {section} "" "proxy\\-agent" "{kind}"'


def section(name: str, *blocks: str) -> str:
    """Return a section with these blocks in it."""
    return "\n".join([f".SH {name.upper()}", *blocks])


def subsection(name: str, *blocks: str) -> str:
    """Return a part of a section."""
    return "\n".join([f'.SS "{escaped(name)}"', *blocks])


def paragraph(text: str) -> str:
    """Return a paragraph; what stands between backquotes is bold."""
    return f".PP\n{_inline(text)}"


def item(term: str, text: str) -> str:
    """Return an entry of a list: a bold term, and its text beside or below it."""
    return f".TP\n\\fB{escaped(term)}\\fR\n{_inline(text)}"


def preformatted(lines: Iterable[str]) -> str:
    """Return lines that are kept as they are."""
    return "\n".join([".PP", ".nf", ".RS 4", *(_inline(line) or "\\&" for line in lines), ".RE", ".fi"])


def escaped(text: str) -> str:
    """Return text in which nothing is a request; what is not ASCII is written by its number."""
    safe = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    safe = "".join(each if each.isascii() else f"\\[u{ord(each):04X}]" for each in safe)
    return f"\\&{safe}" if safe.startswith((".", "'")) else safe


def _inline(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"\\fB\1\\fR", escaped(text))
