"""The admin interface: Envoy's paths, methods, formats and status codes, where supported.

`AdminServer.answer` is the handler of an `agent.http.server.Server`. A path that changes something requires POST, and
rejects requests from pages of another origin.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import urlsplit

from agent.epoch import admin_documents, stats_format
from agent.epoch.arguments import Arguments, hot_restart_version
from agent.handoff.socket_store import ListenAddress
from agent.http.message import Request, Response
from agent.sidecar import admin_documents as documents
from agent.sidecar.admin_page import page
from agent.sidecar.model import Configuration, Tls
from agent.stats.snapshot import Snapshot


class View(Protocol):
    """The server's current state, for the admin interface. Times are calendar seconds."""

    configuration: Configuration
    arguments: Arguments
    started_at: float  # this epoch

    @property
    def version(self) -> str:
        """The version in Envoy's form."""

    @property
    def first_started_at(self) -> float:
        """The start time of the chain's first epoch."""

    def state(self) -> str:
        """Return LIVE, DRAINING, PRE_INITIALIZING or INITIALIZING."""

    def snapshot(self) -> Snapshot:
        """Return the statistics."""

    def bound(self) -> Sequence[tuple[str, Sequence[ListenAddress]]]:
        """Return each listener's name and actual addresses.

        The port is the kernel's choice where the configuration has 0.
        """

    def waiting(self) -> Mapping[str, Sequence[str]]:
        """Return the targets that are not ready, by init manager; empty once initialised."""

    def filled(self, tls: Tls) -> Tls | None:
        """Return TLS settings with the secrets in use; None if one has not come."""


class Actions(Protocol):
    """The admin interface's operations. Each returns at once, so that the response is sent."""

    def drain_listeners(self, *, graceful: bool, inbound_only: bool, skip_exit: bool) -> None:
        """Drain clients and close the listeners.

        `graceful`: close them after the drain time. `skip_exit`: only drain clients, close nothing.
        """

    def fail_health(self, failing: bool) -> None:
        """Set or clear the failed health state."""

    def quit(self) -> None:
        """Exit the process."""


@dataclass(frozen=True, slots=True)
class _Command:
    """One path of the admin interface."""

    about: str
    answer: "Callable[[AdminServer, Request], Response]"
    mutates: bool = False
    parameters: tuple[tuple[str, str], ...] = ()


class AdminServer:
    """Handles requests about one server. Files of certificates are shown as they were at construction."""

    def __init__(self, view: View, actions: Actions, now: Callable[[], float] = time.time) -> None:
        self._view = view
        self._actions = actions
        self._now = now
        self._certificates = documents.Certificates(view.configuration)
        self._loaded_at = datetime.fromtimestamp(now(), UTC)

    async def answer(self, request: Request) -> Response:
        """Return the response to one request."""
        admin = self._view.configuration.admin
        if admin is not None and admin.allowed and not any(_matches(request.target, each) for each in admin.allowed):
            return admin_documents.text(f"request to path {request.target} not allowed", 403)
        command = _COMMANDS.get(request.path)
        if command is None:
            return admin_documents.text(f"invalid path. {_commands()}", 404)
        if command.mutates and request.method != "POST":
            return admin_documents.post_required(request.method)
        if command.mutates and not _of_same_origin(request):
            return admin_documents.text("request from another origin not allowed", 403)
        return command.answer(self, request)

    # Paths that show something

    def index(self, _request: Request) -> Response:
        """Return the HTML page."""
        view = self._view
        facts = {
            "state": view.state(),
            "version": view.version,
            "epoch": str(view.arguments.restart_epoch),
            "up for": admin_documents.whole_seconds(self._now() - view.started_at),
            "listeners": ", ".join(name for name, _ in view.bound()),
            "clusters": ", ".join(each.name for each in view.configuration.clusters),
        }
        looks = {path: each.about for path, each in _COMMANDS.items() if not each.mutates and path != "/"}
        changes = {path: each.about for path, each in _COMMANDS.items() if each.mutates}
        return admin_documents.text(page(facts, looks, changes), content_type=admin_documents.HTML)

    def ready(self, _request: Request) -> Response:
        """Return the state in one word."""
        return admin_documents.ready(self._view.state())

    def server_info(self, _request: Request) -> Response:
        """Return version, state, uptimes, command line and node."""
        view = self._view
        state = view.state()
        server = admin_documents.Server(
            version=view.version,
            state=state,
            uptime_current_epoch=self._now() - view.started_at,
            uptime_all_epochs=self._now() - view.first_started_at,
            hot_restart_version="disabled" if view.arguments.disable_hot_restart else hot_restart_version(),
            options=documents.options(view.arguments),
            node=documents.node(view.configuration),
            hot_restart_initializing=state in {admin_documents.PRE_INITIALIZING, admin_documents.INITIALIZING},
        )
        return admin_documents.server_info(server)

    def hot_restart_version(self, _request: Request) -> Response:
        """Return the version by which two servers check that one can succeed the other."""
        return admin_documents.text("disabled" if self._view.arguments.disable_hot_restart else hot_restart_version())

    def stats(self, request: Request) -> Response:
        """Return the statistics."""
        return stats_format.stats(self._view.snapshot(), admin_documents.parameters(request.target))

    def prometheus(self, request: Request) -> Response:
        """Return the statistics for Prometheus."""
        return stats_format.prometheus(self._view.snapshot(), admin_documents.parameters(request.target))

    def listeners(self, request: Request) -> Response:
        """Return the listeners and their addresses."""
        return admin_documents.listeners(
            self._view.bound(), admin_documents.parameters(request.target).get("format", "text")
        )

    def certs(self, _request: Request) -> Response:
        """Return the certificates in use."""
        contexts = self._certificates.contexts(self._view.filled)
        return admin_documents.certs(contexts, datetime.fromtimestamp(self._now(), UTC))

    def config_dump(self, request: Request) -> Response:
        """Return the configuration in use."""
        asked = admin_documents.parameters(request.target)
        return documents.config_dump(self._view.configuration, self._loaded_at, asked)

    def init_dump(self, _request: Request) -> Response:
        """Return the targets that must be ready before it serves."""
        return admin_documents.init_dump(self._view.waiting())

    def help(self, _request: Request) -> Response:
        """Return the list of paths."""
        return admin_documents.text(_commands())

    # Paths that change something

    def drain_listeners(self, request: Request) -> Response:
        """Close the listeners."""
        asked = admin_documents.parameters(request.target)
        self._actions.drain_listeners(
            graceful="graceful" in asked, inbound_only="inboundonly" in asked, skip_exit="skip_exit" in asked
        )
        return admin_documents.text("OK\n")

    def fail_health(self, _request: Request) -> Response:
        """Set the failed health state."""
        self._actions.fail_health(True)
        return admin_documents.text("OK\n")

    def restore_health(self, _request: Request) -> Response:
        """Clear the failed health state."""
        self._actions.fail_health(False)
        return admin_documents.text("OK\n")

    def quit(self, _request: Request) -> Response:
        """Exit the process."""
        self._actions.quit()
        return admin_documents.text("OK\n")


def _matches(target: str, allowed: str) -> bool:
    """Return whether a target, query included, is `allowed`, or matches its prefix before `*`."""
    return target.startswith(allowed[:-1]) if allowed.endswith("*") else target == allowed


def _of_same_origin(request: Request) -> bool:
    headers = dict(request.headers)
    origin = headers.get("origin")
    return origin is None or (origin != "null" and urlsplit(origin).netloc == headers.get("host"))


_FILTER = (
    ("usedonly", "only counters that have been changed"),
    ("filter", "a regular expression, searched in the name"),
    ("invert_filter", "only the ones that do not match the filter"),
)
_COMMANDS = {
    "/": _Command("overview of this server", AdminServer.index),
    "/certs": _Command("certificates in use", AdminServer.certs),
    "/config_dump": _Command(
        "configuration in use",
        AdminServer.config_dump,
        parameters=(
            ("resource", "one list of it: static_listeners, static_clusters or static_route_configs"),
            ("name_regex", "a regular expression that matches the whole name"),
        ),
    ),
    "/drain_listeners": _Command(
        "close the listeners",
        AdminServer.drain_listeners,
        mutates=True,
        parameters=(
            ("graceful", "ask clients to disconnect first, and close after the drain time"),
            ("skip_exit", "ask clients to disconnect and close nothing"),
            ("inboundonly", "only those whose traffic_direction is INBOUND"),
        ),
    ),
    "/healthcheck/fail": _Command("fail health checks", AdminServer.fail_health, mutates=True),
    "/healthcheck/ok": _Command("pass health checks again", AdminServer.restore_health, mutates=True),
    "/help": _Command("this list", AdminServer.help),
    "/hot_restart_version": _Command("version of the hot-restart protocol", AdminServer.hot_restart_version),
    "/init_dump": _Command("unfinished initialisation", AdminServer.init_dump),
    "/listeners": _Command(
        "listeners and their addresses", AdminServer.listeners, parameters=(("format", "one of text, json"),)
    ),
    "/quitquitquit": _Command("end the process", AdminServer.quit, mutates=True),
    "/ready": _Command("state in one word, 200 if it is LIVE and 503 otherwise", AdminServer.ready),
    "/server_info": _Command("version, state, command line and node", AdminServer.server_info),
    "/stats": _Command(
        "statistics",
        AdminServer.stats,
        parameters=(
            *_FILTER,
            ("format", "one of text, json, prometheus"),
            ("type", "one of All, Counters, Gauges, TextReadouts"),
        ),
    ),
    "/stats/prometheus": _Command("statistics for Prometheus", AdminServer.prometheus, parameters=_FILTER),
}


def _commands() -> str:
    lines = ["admin commands are:\n"]
    for path, command in _COMMANDS.items():
        lines.append(f"  {path}{' (POST)' if command.mutates else ''}: {command.about}\n")
        lines += [f"      {name}: {about}\n" for name, about in command.parameters]
    return "".join(lines)
