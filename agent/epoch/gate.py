"""The candidate's side of the agent's gate."""

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

    Sends Envoy's request: its routes, by REST. Raises `MachineError` if there is no gate, if it is removed, or if it
    responds with an error.
    """
    request = Request("POST", "/v3/discovery:routes", (("content-type", "application/json"),), _ASKED)
    try:
        async with stream(path, request) as response:
            status = response.status
    except OSError as error:
        message = f"cannot pass the gate {path}: {str(error) or 'it has closed'}; check that the agent runs"
        raise MachineError(message) from error
    if status != 200:
        message = f"cannot pass the gate {path}: it answers with status {status}"
        raise MachineError(message)
