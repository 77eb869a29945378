"""Waits at the agent's gate, before the process serves.

It requests routes by REST from a cluster, once; the gate responds when the process may serve. Envoy sends the same
request (discovery.v3, REST-JSON).
"""

import asyncio
import json

import h11

from agent.sidecar.http_pool import Pool, Unreachable, UpstreamConnection

_ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_AGAIN = 0.5  # seconds between attempts while the gate does not respond


async def opened(pool: Pool, name: str) -> None:
    """Wait until the gate has responded with status 200."""
    while not await _asked(pool, name):  # noqa: ASYNC110  # no event signals that the gate listens
        await asyncio.sleep(_AGAIN)


async def _asked(pool: Pool, name: str) -> bool:
    try:
        line = await pool.line(None)
    except Unreachable:
        return False
    try:
        return await _status(line, name) == 200
    except (OSError, h11.ProtocolError):
        return False
    finally:
        line.close(by_us=True, busy=True)


async def _status(line: UpstreamConnection, name: str) -> int:
    body = json.dumps({"type_url": _ROUTES, "resource_names": [name]}).encode()
    headers = [("host", "gate"), ("content-type", "application/json"), ("content-length", str(len(body)))]
    request = h11.Request(method="POST", target="/v3/discovery:routes", headers=headers)
    parts = (request, h11.Data(data=body), h11.EndOfMessage())
    await line.stream.write(b"".join(line.pack(part) for part in parts))
    while isinstance(event := await line.next(0), h11.InformationalResponse):
        pass
    assert isinstance(event, h11.Response)
    return event.status_code
