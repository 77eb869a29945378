"""One epoch's private console: what a candidate has loaded, where a serving one listens, what a draining one has."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.core.errors import MachineError
from agent.handoff import gate
from agent.handoff.vault import Place
from agent.http import client

_TIMEOUT = 5.0
_CHANGES = "/stats?filter=^listener_manager.listener_(added|modified|removed|in_place_updated)$"
_CONNECTIONS = "/stats?filter=^listener..*downstream_cx_active$"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A certificate that the epoch has loaded, as its console tells: from which path, and its serial number."""

    path: str
    serial: int


class EpochConsole:
    """Asks the console at a Unix socket. Every question raises `MachineError` if there is no sensible answer."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def waits_only_for_gate(self) -> bool:
        """Whether everything else that it loads, clusters and listeners by xDS among it, is there."""
        waiting = await self._json("/init_dump")
        names = [name for each in waiting.get("unready_targets_dumps", []) for name in each.get("target_names", [])]
        return all(gate.NAME in name for name in names)

    async def is_live(self) -> bool:
        """Whether its workers serve."""
        return (await self._json("/server_info")).get("state") == "LIVE"

    async def certificates(self) -> list[Loaded]:
        """The leaf of every chain it has loaded."""
        answer = await self._json("/certs")
        chains = [chain for each in answer.get("certificates", []) for chain in each.get("cert_chain", [])]
        return [Loaded(chain.get("path", ""), int(chain.get("serial_number", "0"), 16)) for chain in chains]

    async def listeners(self) -> set[Place]:
        """Every address that it listens on now."""
        answer = await self._json("/listeners?format=json")
        found = set()
        for status in answer.get("listener_statuses", []):
            if status.get("name") != gate.NAME:
                addresses = [status.get("local_address", {}), *status.get("additional_local_addresses", [])]
                found |= {place for each in addresses if (place := _place(each)) is not None}
        return found

    async def listener_changes(self) -> str:
        """What moves when the set of listeners does: counters, or the set where the operator leaves those out.

        Only whether two answers are the same matters.
        """
        counters = await self._get(_CHANGES)
        return (counters or await self._get("/listeners?format=json")).decode()

    async def connections(self) -> int | None:
        """How many clients it has, admin's own not counted; None where the operator's statistics do not tell."""
        lines = (await self._get(_CONNECTIONS)).decode().splitlines()
        counts = [int(line.rpartition(":")[2]) for line in lines if _counts_clients(line)]
        return sum(counts) if counts else None

    async def _get(self, target: str) -> bytes:
        try:
            status, body = await client.fetch(self.path, target, timeout=_TIMEOUT)
        except OSError as error:
            message = f"cannot ask {self.path}{target}: {str(error) or 'no answer in time'}"
            raise MachineError(message) from error
        if status != 200:
            message = f"cannot ask {self.path}{target}: status {status}"
            raise MachineError(message)
        return body

    async def _json(self, target: str) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(await self._get(target))
        except ValueError as error:
            message = f"cannot read the answer of {self.path}{target}: {error}"
            raise MachineError(message) from error
        return answer


def _counts_clients(line: str) -> bool:
    """One total for each listener, but neither admin's nor a worker's share of it."""
    return line.startswith("listener.") and not line.startswith("listener.admin.") and ".worker_" not in line


def _place(address: dict[str, Any]) -> Place | None:
    """An address as the console spells it, in the protocol's spelling."""
    if "pipe" in address:
        return Place(f"unix://{address['pipe'].get('path', '')}")
    inner = address.get("socket_address")
    if inner is None:
        return None
    host, port = str(inner.get("address", "")), str(inner.get("port_value", 0))
    scheme = str(inner.get("protocol", "TCP")).lower()
    namespace = str(inner.get("network_namespace_filepath", ""))
    return Place.at(scheme, host, port, namespace)
