"""A hook of MkDocs: shows links to files outside docs/ as their paths, since the site has only the pages."""

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./([^)\s]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:  # noqa: ANN401  # MkDocs passes its objects by name
    """Replace each such link in a page."""
    return _OUTSIDE.sub(_replacement, markdown)


def _replacement(link: re.Match[str]) -> str:
    text, path = link.groups()
    return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}`)"
