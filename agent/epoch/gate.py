"""The gate of the agent, as a candidate comes to it: it knocks, and waits until it is let in or dropped."""

import json
from pathlib import Path

from agent.core.errors import MachineError
from agent.handoff.gate import NAME
from agent.http.client import stream
from agent.http.message import Request

_ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_ASKED = json.dumps({"resource_names": [NAME], "type_url": _ROUTES}).encode()


async def wait_at_gate(path: Path) -> None:
    """Return when the gate at this Unix socket opens, however long that takes.

    What is asked is what Envoy asks: its routes, by REST. Raises `MachineError` if there is no gate, if it is taken
    away, or if it is not opened but answers otherwise.
    """
    request = Request("POST", "/v3/discovery:routes", (("content-type", "application/json"),), _ASKED)
    try:
        async with stream(path, request) as response:
            status = response.status
    except OSError as error:
        message = f"cannot pass the gate {path}: {str(error) or 'it is gone'}; is the agent?"
        raise MachineError(message) from error
    if status != 200:
        message = f"cannot pass the gate {path}: it answers with status {status}"
        raise MachineError(message)
