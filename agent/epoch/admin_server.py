"""A read-only admin interface in Envoy's format, with what the agent requests of an epoch."""

import contextlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.core.errors import BadInput, MachineError, UsageError
from agent.epoch import admin_documents, stats_format
from agent.epoch.arguments import Arguments, hot_restart_version
from agent.epoch.chain_addresses import is_abstract
from agent.epoch.sockets import Bound, bind, tcp, unix
from agent.handoff.gate import NAME
from agent.handoff.socket_store import ListenAddress
from agent.host import clock
from agent.http.message import Request, Response
from agent.http.server import Server
from agent.stats.writer import Writer

_ADMIN = "admin"
_QUEUE = 128


@dataclass
class EpochFacts:
    """The facts the admin interface shows; the epoch updates them."""

    program: str
    arguments: Arguments
    stats: Writer
    began_at: float = field(default_factory=clock.monotonic)
    chain_began: float = field(default_factory=lambda: clock.calendar().timestamp())
    """In calendar seconds."""
    state: str = admin_documents.PRE_INITIALIZING
    waits_at_gate: bool = False
    listeners: dict[str, Bound] = field(default_factory=dict)
    certificates: list[admin_documents.Context] = field(default_factory=list)

    def count_clients(self) -> None:
        """Update the listeners' gauges with the number of clients the kernel reports."""
        for name, bound in self.listeners.items():
            self.stats.gauge(f"listener.{name}.downstream_cx_active").set(bound.clients())


class AdminServer:
    """Answers at one address until it is closed."""

    def __init__(self, facts: EpochFacts) -> None:
        self._facts = facts
        self._server = Server(self._answer)
        self._path: str | None = None

    async def open(self, address: Mapping[str, Any]) -> None:
        """Start answering at an address in Envoy's bootstrap format.

        Raises `BadInput` or `MachineError`.
        """
        place, mode = _place(address)
        listener = bind(place, mode)
        try:
            listener.listen(_QUEUE)
        except OSError as error:
            listener.close()
            raise MachineError(f"cannot listen on {place.address}: {error.strerror}") from error
        path = place.address.removeprefix("unix://")
        if listener.family == socket.AF_UNIX and not is_abstract(path):
            self._path = path
        await self._server.start(listener)

    async def close(self) -> None:
        """Stop answering; safe to repeat."""
        await self._server.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                Path(self._path).unlink()
            self._path = None

    async def _answer(self, request: Request) -> Response:
        answer = self._answers().get(request.path)
        if answer is None:
            return admin_documents.text("invalid path\n", 404)
        if request.method not in {"GET", "HEAD"}:
            return admin_documents.text(f"Method {request.method} not allowed, GET required.\n", 405)
        return answer(admin_documents.parameters(request.target))

    def _answers(self) -> dict[str, Callable[[dict[str, str]], Response]]:
        facts = self._facts
        return {
            "/ready": lambda _: admin_documents.ready(facts.state),
            "/server_info": lambda _: admin_documents.server_info(_server(facts)),
            "/certs": lambda _: admin_documents.certs(facts.certificates, clock.calendar()),
            "/listeners": lambda asked: admin_documents.listeners(_bound(facts), asked.get("format", "text")),
            "/init_dump": lambda _: admin_documents.init_dump(
                {"Server": [f"gate {NAME}"]} if facts.waits_at_gate else {}
            ),
            "/stats": self._stats,
            "/stats/prometheus": lambda asked: self._stats({**asked, "format": "prometheus"}),
        }

    def _stats(self, asked: dict[str, str]) -> Response:
        self._facts.count_clients()
        return stats_format.stats(self._facts.stats.read(), asked)


def _bound(facts: EpochFacts) -> list[tuple[str, list[ListenAddress]]]:
    return [(name, [bound.actual]) for name, bound in facts.listeners.items() if not bound.is_given_up]


def _server(facts: EpochFacts) -> admin_documents.Server:
    arguments = facts.arguments
    options = {
        "base_id": str(arguments.base_id),
        "restart_epoch": arguments.restart_epoch,
        "concurrency": arguments.concurrency,
        "config_path": arguments.config_path or "",
    }
    return admin_documents.Server(
        version=facts.program,
        state=facts.state,
        uptime_current_epoch=clock.monotonic() - facts.began_at,
        uptime_all_epochs=clock.calendar().timestamp() - facts.chain_began,
        hot_restart_version="disabled" if arguments.disable_hot_restart else hot_restart_version(),
        options=options,
        node={"id": arguments.service_node, "cluster": arguments.service_cluster},
        hot_restart_initializing=facts.state in {admin_documents.PRE_INITIALIZING, admin_documents.INITIALIZING},
    )


def _place(address: Mapping[str, Any]) -> tuple[ListenAddress, int | None]:
    pipe, internet = address.get("pipe"), address.get("socket_address")
    try:
        if isinstance(pipe, dict) and "path" in pipe:
            return unix(str(pipe["path"])), int(pipe.get("mode", 0o600))
        if isinstance(internet, dict) and {"address", "port_value"} <= internet.keys():
            return tcp(str(internet["address"]), _port(internet["port_value"])), None
    except (UsageError, TypeError, ValueError) as error:
        raise BadInput(f"cannot open the admin server at {_ADMIN}.address: {error}") from error
    raise BadInput(f"cannot open the admin server at {_ADMIN}.address: no pipe and no socket_address with a port")


def _port(value: object) -> int:
    port = int(str(value))
    if port not in range(1 << 16):
        raise ValueError(f"{port} is not a port")
    return port
