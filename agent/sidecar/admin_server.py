"""The admin console: Envoy's paths, methods, shapes and status codes, as far as the sidecar has something to tell.

`AdminServer.answer` is the handler of an `agent.http.server.Server`. A path that changes something wants POST, and is
refused to a page of another origin.
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
from agent.sidecar.model import Configuration
from agent.stats.snapshot import Snapshot


class View(Protocol):
    """What the console sees of the server, at the moment it asks. Times are calendar seconds."""

    configuration: Configuration
    arguments: Arguments
    started_at: float  # this epoch

    @property
    def version(self) -> str:
        """In Envoy's form."""

    @property
    def first_started_at(self) -> float:
        """When the first epoch of its chain began."""

    def state(self) -> str:
        """LIVE, DRAINING, PRE_INITIALIZING or INITIALIZING."""

    def snapshot(self) -> Snapshot:
        """The statistics."""

    def bound(self) -> Sequence[tuple[str, Sequence[ListenAddress]]]:
        """Each listener's name and where it listens in fact: the kernel's port where the configuration has 0."""

    def waiting(self) -> Mapping[str, Sequence[str]]:
        """By init manager, the targets that are waited for; empty once it is initialised."""


class Actions(Protocol):
    """What the console can bring about. Each returns at once, so that the answer still goes out."""

    def drain_listeners(self, *, graceful: bool, inbound_only: bool, skip_exit: bool) -> None:
        """Close the listeners; `graceful`: after the drain time. `skip_exit`: ask clients to leave, close nothing."""

    def fail_health(self, failing: bool) -> None:
        """Be, or no longer be, unhealthy."""

    def quit(self) -> None:
        """End the process."""


@dataclass(frozen=True, slots=True)
class _Command:
    """One path of the console."""

    about: str
    answer: "Callable[[AdminServer, Request], Response]"
    mutates: bool = False
    parameters: tuple[tuple[str, str], ...] = ()


class AdminServer:
    """Answers requests about one server. Certificates are told as they were when it was made."""

    def __init__(self, view: View, actions: Actions, now: Callable[[], float] = time.time) -> None:
        self._view = view
        self._actions = actions
        self._now = now
        self._contexts = documents.contexts(view.configuration)
        self._loaded_at = datetime.fromtimestamp(now(), UTC)

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
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

    # What it tells

    def index(self, _request: Request) -> Response:
        """The page for a person."""
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
        """The state in one word."""
        return admin_documents.ready(self._view.state())

    def server_info(self, _request: Request) -> Response:
        """What runs here, since when, and with which command line."""
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
        """The word by which two servers tell whether one can follow the other."""
        return admin_documents.text("disabled" if self._view.arguments.disable_hot_restart else hot_restart_version())

    def stats(self, request: Request) -> Response:
        """The statistics."""
        return stats_format.stats(self._view.snapshot(), admin_documents.parameters(request.target))

    def prometheus(self, request: Request) -> Response:
        """The statistics for Prometheus."""
        return stats_format.prometheus(self._view.snapshot(), admin_documents.parameters(request.target))

    def listeners(self, request: Request) -> Response:
        """Where it listens."""
        return admin_documents.listeners(
            self._view.bound(), admin_documents.parameters(request.target).get("format", "text")
        )

    def certs(self, _request: Request) -> Response:
        """The certificates in use."""
        return admin_documents.certs(self._contexts, datetime.fromtimestamp(self._now(), UTC))

    def config_dump(self, request: Request) -> Response:
        """The configuration in use."""
        asked = admin_documents.parameters(request.target)
        return documents.config_dump(self._view.configuration, self._loaded_at, asked)

    def init_dump(self, _request: Request) -> Response:
        """What it waits for."""
        return admin_documents.init_dump(self._view.waiting())

    def help(self, _request: Request) -> Response:
        """The list of paths."""
        return admin_documents.text(_commands())

    # What it brings about

    def drain_listeners(self, request: Request) -> Response:
        """Close the listeners."""
        asked = admin_documents.parameters(request.target)
        self._actions.drain_listeners(
            graceful="graceful" in asked, inbound_only="inboundonly" in asked, skip_exit="skip_exit" in asked
        )
        return admin_documents.text("OK\n")

    def fail_health(self, _request: Request) -> Response:
        """Be unhealthy."""
        self._actions.fail_health(True)
        return admin_documents.text("OK\n")

    def restore_health(self, _request: Request) -> Response:
        """Be healthy again."""
        self._actions.fail_health(False)
        return admin_documents.text("OK\n")

    def quit(self, _request: Request) -> Response:
        """End the process."""
        self._actions.quit()
        return admin_documents.text("OK\n")


def _matches(target: str, allowed: str) -> bool:
    """Whether a target, its query included, is an allowed path: an exact one, or a prefix that ends in a star."""
    return target.startswith(allowed[:-1]) if allowed.endswith("*") else target == allowed


def _of_same_origin(request: Request) -> bool:
    headers = dict(request.headers)
    origin = headers.get("origin")
    return origin is None or (origin != "null" and urlsplit(origin).netloc == headers.get("host"))


_FILTER = (
    ("usedonly", "leave out counters that have never counted"),
    ("filter", "a regular expression, found anywhere in the name"),
    ("invert_filter", "take those that the filter does not find"),
)
_COMMANDS = {
    "/": _Command("this server at a glance", AdminServer.index),
    "/certs": _Command("certificates in use", AdminServer.certs),
    "/config_dump": _Command(
        "configuration in use",
        AdminServer.config_dump,
        parameters=(
            ("resource", "one list of it: static_listeners, static_clusters or static_route_configs"),
            ("name_regex", "a regular expression that is the whole name of what is told"),
        ),
    ),
    "/drain_listeners": _Command(
        "close the listeners",
        AdminServer.drain_listeners,
        mutates=True,
        parameters=(
            ("graceful", "ask clients to leave first, and close after the drain time"),
            ("skip_exit", "ask clients to leave and close nothing"),
            ("inboundonly", "only those whose traffic_direction is INBOUND"),
        ),
    ),
    "/healthcheck/fail": _Command("be unhealthy", AdminServer.fail_health, mutates=True),
    "/healthcheck/ok": _Command("be healthy again", AdminServer.restore_health, mutates=True),
    "/help": _Command("this list", AdminServer.help),
    "/hot_restart_version": _Command("version of the hot-restart protocol", AdminServer.hot_restart_version),
    "/init_dump": _Command("what is waited for before it serves", AdminServer.init_dump),
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
            ("type", "one of All, Counters, Gauges"),
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
