"""The control socket: the operator's interface to the agent, HTTP/1.1 over a Unix socket.

POST /restart?binary=1&force=1&now=1   start a new epoch; streams progress
POST /upgrade                          replace the agent; streams progress
POST /drain?wait=0                     responds when drained, or at once
POST /stop                             responds at once
POST /pause?for=SECONDS                pause rotations, by default for ten minutes
POST /resume
GET  /ready?wait=SECONDS               200 or 503 with the reason, at once or as soon as it is ready
GET  /state                            JSON, as saved in the run directory
GET  /status                           JSON, the status snapshot
POST /request?method=M&target=T&epoch=N   M T at the admin interface of epoch N, by default the serving one

Progress is one JSON object a line: `{"at": seconds, "text": ...}`, and at the end
`{"outcome": "serving", "epoch": 8, "reason": ""}`. 400: an invalid parameter; 409: the agent refuses or fails, with
the reason.
"""

import asyncio
import contextlib
import json
import math
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from agent.core.errors import AgentError, MachineError, UsageError
from agent.http.message import Headers, Peer, Request, Response
from agent.http.server import Server, peer_of
from agent.status.actions import Actions, OperationResult, Progress, Timeline
from agent.status.model import document

NAME: Final = "control"

_PAUSE = 600.0  # seconds, by default
_DIGITS = 18  # of a number; Python refuses to read one of some thousand
_HEARING = 1.0  # seconds for sending the last line before the program is replaced
_JSON: Headers = (("content-type", "application/json"),)
_LINES: Headers = (("content-type", "application/x-ndjson"),)


class Control:
    """Answers root and the agent's own user.

    `note` is called with each action and the process and user that requested it.
    """

    def __init__(self, actions: Actions, note: Callable[[str], None]) -> None:
        self._actions = actions
        self._note = note
        self._server = Server(self.answer, self.admits)
        self._path: Path | None = None
        self._begun: set[asyncio.Task[None]] = set()
        self._routes = {
            "/restart": _Route("POST", ("binary", "force", "now"), self._restart),
            "/upgrade": _Route("POST", (), self._upgrade),
            "/drain": _Route("POST", ("wait",), self._drain),
            "/stop": _Route("POST", (), self._stop),
            "/pause": _Route("POST", ("for",), self._pause),
            "/resume": _Route("POST", (), self._resume),
            "/ready": _Route("GET", ("wait",), self._ready),
            "/state": _Route("GET", (), self._state),
            "/status": _Route("GET", (), self._status),
            "/request": _Route("POST", ("method", "target", "epoch"), self._request),
        }

    async def open(self, directory: Path) -> None:
        """Listen in the run directory, replacing an existing socket. Raises `MachineError`."""
        self._path = directory / NAME
        await self._server.start(_listen(self._path))

    async def close(self) -> None:
        """Close all connections, cancel running actions and remove the socket."""
        await self._server.close()
        for task in self._begun:
            task.cancel()
        await asyncio.gather(*self._begun, return_exceptions=True)
        if self._path is not None:
            with contextlib.suppress(OSError):  # a socket file without a listener refuses connections anyway
                self._path.unlink()

    def admits(self, client: socket.socket) -> bool:
        """Return whether this client may send requests: root and the agent's own user."""
        peer = peer_of(client)
        if peer is not None and peer.uid in {0, os.geteuid()}:
            return True
        self._note(f"{_describe(peer)} was rejected at the control socket")
        return False

    async def answer(self, request: Request) -> Response:
        """Answer one request; a client that disconnects early cancels nothing."""
        route = self._routes.get(request.path)
        if route is None:
            return _text(404, f"there is no {request.path}; available: {', '.join(self._routes)}")
        if request.method != route.method:
            message = f"cannot {request.method} {request.path}: it accepts {route.method}\n"
            return Response(405, message.encode(), (("allow", route.method), ("content-type", "text/plain")))
        try:
            query = _Query(request.target, route.parameters)
            return await route.respond(query, request)
        except UsageError as error:
            return _text(400, str(error))
        except AgentError as error:
            return _text(409, str(error))

    # Actions

    async def _restart(self, query: "_Query", request: Request) -> Response:
        wishes = {name: query.truth(name, default=False) for name in ("binary", "force", "now")}
        self._asked(request)
        return self._tell(self._actions.restart(**wishes))

    async def _upgrade(self, _: "_Query", request: Request) -> Response:
        self._asked(request)
        return self._tell(self._actions.upgrade())

    async def _drain(self, query: "_Query", request: Request) -> Response:
        waits = query.truth("wait", default=True)
        self._asked(request)
        if not waits:
            self._begin(self._drain_unheard())
            return _text(202, "draining")
        return _text(200, await self._actions.drain())

    async def _drain_unheard(self) -> None:
        try:
            await self._actions.drain()
        except AgentError as error:
            self._note(str(error))

    async def _stop(self, _: "_Query", request: Request) -> Response:
        self._asked(request)
        await self._actions.stop()
        return _text(202, "stopping")

    async def _pause(self, query: "_Query", request: Request) -> Response:
        seconds = query.seconds("for", _PAUSE)
        if not seconds:
            message = "cannot pause for 0 s; write for=SECONDS"
            raise UsageError(message)
        self._asked(request)
        await self._actions.pause(seconds)
        return _text(200, f"rotations are paused for {seconds:g} s")

    async def _resume(self, _: "_Query", request: Request) -> Response:
        self._asked(request)
        await self._actions.resume()
        return _text(200, "rotations resume")

    # Queries

    async def _ready(self, query: "_Query", _: Request) -> Response:
        reason = await self._actions.ready(query.seconds("wait", 0.0))
        return _text(503 if reason else 200, reason or "ready")

    async def _state(self, _query: "_Query", _request: Request) -> Response:
        return Response(200, json.dumps(await self._actions.state()).encode() + b"\n", _JSON)

    async def _status(self, _query: "_Query", _request: Request) -> Response:
        return Response(200, document(self._actions.overview()), _JSON)

    async def _request(self, query: "_Query", request: Request) -> Response:
        method, target, epoch = query.text("method", "GET"), query.text("target", "/"), query.number("epoch")
        if method not in {"GET", "HEAD"}:
            self._asked(request)
        return await self._actions.request(method, target, epoch)

    # Actions that outlive their request

    def _asked(self, request: Request) -> None:
        self._note(f"{request.target.removeprefix('/')} was requested by {_describe(request.peer)}")

    def _begin(self, action: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(action)
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        return task

    def _tell(self, timeline: Timeline) -> Response:
        told: asyncio.Queue[bytes | None] = asyncio.Queue()
        task = self._begin(_follow(timeline, told))
        return Response(200, _hear(told, task), _LINES)


@dataclass(frozen=True, slots=True)
class _Route:
    method: str
    parameters: tuple[str, ...]
    respond: Callable[["_Query", Request], Awaitable[Response]]


class _Query:
    """The query parameters; an unknown or invalid one raises `UsageError`."""

    def __init__(self, target: str, known: tuple[str, ...]) -> None:
        self._values = dict(parse_qsl(urlsplit(target).query, keep_blank_values=True))
        for name in self._values:
            if name not in known:
                message = f"there is no parameter {name}; available: {', '.join(known) or 'none'}"
                raise UsageError(message)

    def truth(self, name: str, *, default: bool) -> bool:
        """Return a flag, 0 or 1."""
        value = self._values.get(name, "01"[default])
        if value not in {"0", "1"}:
            message = f"cannot use {name}={value}: it must be 0 or 1"
            raise UsageError(message)
        return value == "1"

    def text(self, name: str, default: str) -> str:
        """Return a parameter unchanged."""
        return self._values.get(name, default)

    def number(self, name: str) -> int | None:
        """Return a whole number; None if the parameter is missing."""
        value = self._values.get(name)
        if value is not None and not (value.isascii() and value.isdecimal() and len(value) <= _DIGITS):
            message = f"cannot use {name}={value}: it is not a number"
            raise UsageError(message)
        return None if value is None else int(value)

    def seconds(self, name: str, default: float) -> float:
        """Return a number of seconds, not below zero."""
        value = self._values.get(name, str(default))
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            message = f"cannot use {name}={value}: it is not a number of seconds"
            raise UsageError(message)
        return seconds


async def _follow(timeline: Timeline, told: "asyncio.Queue[bytes | None]") -> None:
    """Run an operation to its end, queueing its progress whether or not a client reads it."""
    try:
        async for item in timeline:
            told.put_nowait(_line(item))
            if isinstance(item, OperationResult) and item.word == "executing":
                with contextlib.suppress(TimeoutError):  # no client reads it
                    await asyncio.wait_for(told.join(), _HEARING)
    except AgentError as error:
        told.put_nowait(_line(OperationResult("refused", reason=str(error))))
    finally:
        told.put_nowait(None)


async def _hear(told: "asyncio.Queue[bytes | None]", task: "asyncio.Task[None]") -> AsyncIterator[bytes]:
    while (line := await told.get()) is not None:
        yield line
        told.task_done()  # sent
    await task  # raise an exception of the task in this connection


def _line(item: Progress | OperationResult) -> bytes:
    if isinstance(item, Progress):
        row: dict[str, object] = {"at": round(item.at, 6), "text": item.text}
    else:
        row = {"outcome": item.word, "epoch": item.epoch, "reason": item.reason}
    return json.dumps(row).encode() + b"\n"


def _text(status: int, text: str) -> Response:
    return Response(status, f"{text}\n".encode(errors="replace"))


def _describe(peer: Peer | None) -> str:
    if peer is None:
        return "somebody"
    try:
        name = Path(f"/proc/{peer.pid}/comm").read_text(errors="replace").strip()
    except OSError:
        name = "an unknown process"  # exited, or in another namespace
    return f"{''.join(each if each.isprintable() else '?' for each in name)} (pid {peer.pid}, uid {peer.uid})"


def _listen(path: Path) -> socket.socket:
    """Listen at `path`; rename makes the socket appear only with its mode and a listener."""
    fresh = path.with_name(f".{path.name}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fresh.unlink(missing_ok=True)
        listener.bind(str(fresh))
        fresh.chmod(0o600)
        listener.listen(64)
        fresh.rename(path)
    except OSError as error:
        listener.close()
        message = f"cannot listen on {path}: {error.strerror or error}"
        raise MachineError(message) from error
    return listener
