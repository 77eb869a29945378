"""Statistics over all epochs in the format of Envoy's `/stats`: one `name: value` a line."""

import re
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from agent.http.message import Request, Response
from agent.stats.snapshot import Snapshot


class Statistics:
    """Answers `/stats`.

    `filter=<regular expression>` selects names. `read` returns the totals.
    """

    def __init__(self, read: Callable[[], Snapshot]) -> None:
        self._read = read

    async def answer(self, request: Request) -> Response:
        """Return counters over all epochs ever, and gauges of the live ones."""
        query = parse_qs(urlsplit(request.target).query)
        try:
            wanted = re.compile(query.get("filter", [""])[-1])
        except re.error as error:
            return Response(400, f"cannot use the filter: {error}\n".encode())
        snapshot = self._read()
        values = sorted((snapshot.counters | snapshot.gauges).items())
        lines = [f"{name}: {value}\n" for name, value in values if wanted.search(name)]
        return Response(200, "".join(lines).encode())
