"""Serves the HTML page and the schema of `/status` from memory."""

from pathlib import Path
from typing import Final

from agent.http.message import Headers, Request, Response

_HERE: Final = Path(__file__).parent
_FILES: Final = {
    "/": ("site/index.html", "text/html; charset=utf-8"),
    "/style.css": ("site/style.css", "text/css; charset=utf-8"),
    "/words.js": ("site/words.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("site/charts.js", "text/javascript; charset=utf-8"),
    "/script.js": ("site/script.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("site/icon.svg", "image/svg+xml"),
    "/status/schema.json": ("schema.json", "application/schema+json"),
}
_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final[Headers] = (
    ("cache-control", "no-store"),  # an upgrade replaces the page
    ("content-security-policy", _POLICY),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
)


class Page:
    """Answers `paths`.

    All files are read at construction: an upgrade may replace them while the agent runs.
    """

    paths: Final = frozenset(_FILES)

    def __init__(self) -> None:
        self._answers = {path: _load(name, kind) for path, (name, kind) in _FILES.items()}

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        if request.method not in {"GET", "HEAD"}:
            return Response(405, b"method not allowed\n", (("allow", "GET, HEAD"),))
        return self._answers.get(request.path) or Response(404, b"not found\n")


def _load(name: str, kind: str) -> Response:
    return Response(200, (_HERE / name).read_bytes(), (("content-type", kind), *_HEADERS))
