"""A client of an epoch's private admin interface: loaded resources, listeners, connections."""

import asyncio
import errno
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from agent.core.errors import MachineError
from agent.handoff import gate
from agent.handoff.socket_store import ListenAddress
from agent.http import client
from agent.http.client import Owned, UnixPlace
from agent.http.message import Request, Response
from agent.proxies.envoy import subscriptions, tls_listeners
from agent.proxies.interface import (
    ConnectFailures,
    Delivered,
    Inbound,
    LoadedCertificate,
    Subscription,
    Subscriptions,
    TlsListener,
    Upstream,
)

_TIMEOUT = 5.0
_QUESTION, _METRICS = "/ready", "/stats/prometheus"
_NOBODY = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.EACCES})  # the admin interface is unreachable
_MUCH = 256 << 10  # bytes; larger responses are parsed in a thread
_CHANGES = "/stats?filter=^listener_manager.listener_(added|modified|removed|in_place_updated)$"
# With `pre_cx`: connections that the listener filters still examine.
_CONNECTIONS = "/stats?filter=^listener..*downstream_.*cx_active$"
_CONNECT_FAILURES = (
    "/stats?filter=^cluster[.].*(ssl[.]fail_verify_.*|ssl[.]connection_error|upstream_cx_connect_timeout)$"
)
_CLOSE_INBOUND = "/drain_listeners?inboundonly"
_ASK_INBOUND_TO_LEAVE = "/drain_listeners?graceful&skip_exit&inboundonly"
_STATIC, _DYNAMIC = "/config_dump?resource=static_listeners", "/config_dump?resource=dynamic_listeners"
_SECRETS = "/config_dump?resource=dynamic_active_secrets"
_NO_VERSION = frozenset({None, "", "uninitialized"})
_REJECTED = (_DYNAMIC, *(f"/config_dump?resource=dynamic_{kind}_clusters" for kind in ("warming", "active")))
_INBOUND = frozenset({"INBOUND", 1})  # as protobuf's JSON has it


_Q = TypeVar("_Q", bound=Callable[..., Any])


def _sensible(question: _Q) -> _Q:
    """Make a method raise `MachineError` on an unexpected response, as of a compromised proxy."""

    @wraps(question)
    async def asked(console: "AdminClient", *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # any method's arguments
        with _understanding(console.path):
            return await question(console, *args, **kwargs)

    return cast("_Q", asked)


@contextmanager
def _understanding(console: UnixPlace) -> Iterator[None]:
    """Turn errors from a response of unexpected structure into `MachineError`."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        message = f"cannot parse the answer of {console} ({type(error).__name__})"
        raise MachineError(message) from error


async def _tree(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a response. Raises ValueError for anything else."""
    try:
        found = await asyncio.to_thread(json.loads, body) if len(body) > _MUCH else json.loads(body)
    except RecursionError as error:
        message = "it is nested too deeply"
        raise ValueError(message) from error
    if not isinstance(found, dict):
        message = "it is not an object"
        raise ValueError(message)  # noqa: TRY004  # the same error as for text that is not JSON
    return found


class AdminClient:
    """Queries Envoy at a Unix socket; every method raises `MachineError` on a bad response."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pid: int | None = None  # the only process whose responses are accepted, once it is known

    @property
    def place(self) -> UnixPlace:
        """The address of the admin interface."""
        return self.path if self.pid is None else Owned(self.path, self.pid)

    async def responds(self) -> bool:
        """Return True when it responds or is unreachable, False on another error."""
        try:
            await client.fetch(self.place, _QUESTION, timeout=math.inf)
        except OSError as error:
            return error.errno in _NOBODY
        return True

    def exposition(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Return the metrics of `/stats/prometheus`, with the request's query."""
        _, mark, query = request.target.partition("?")
        return client.stream(self.place, replace(request, target=f"{_METRICS}{mark}{query}"))

    async def waits_only_for_gate(self) -> bool:
        """Return whether everything but the gate is loaded, xDS clusters and listeners included."""
        return not await self.waits_for()

    async def waits_at_gate(self) -> bool:
        """Return whether the gate has not responded to it yet."""
        return any(gate.NAME in name for name in await self._unready())

    @_sensible
    async def subscriptions(self) -> Subscriptions:
        """Return its subscriptions by scope; none if the operator hides their counters."""
        return subscriptions.parse((await self._get(subscriptions.FILTER)).decode())

    @_sensible
    async def deliveries(self, scopes: Collection[str]) -> Mapping[str, Delivered]:
        """Return what it has of these subscriptions, by scope; none if the operator hides their counters."""
        found = subscriptions.parse_versions((await self._get(subscriptions.VERSIONS)).decode())
        return {scope: each for scope, each in found.items() if scope in scopes}

    @_sensible
    async def state(self) -> str:
        """Return LIVE, PRE_INITIALIZING, INITIALIZING or DRAINING (envoy.admin.v3.ServerInfo.State)."""
        return str((await self._json("/server_info")).get("state", ""))

    async def waits_for(self) -> list[str]:
        """Return the names of the init targets it waits for besides the gate."""
        return [name for name in await self._unready() if gate.NAME not in name]

    @_sensible
    async def rejections(self) -> list[str]:
        """Return its reasons for rejecting updates of a control plane or a file, if available."""
        found = []
        for target in _REJECTED:
            configs = (await self._json_or_nothing(target)).get("configs", [])
            found += [text for each in configs if (text := each.get("error_state", {}).get("details"))]
        return found

    @_sensible
    async def unseen(self) -> list[Subscription]:
        """Return the subscriptions without an update, determined without counters.

        A rejected secret may be missing here, and an empty set of listeners looks like one not received.
        """
        listeners = (await self._json_or_nothing(_DYNAMIC)).get("configs", [])
        secrets = (await self._json_or_nothing(_SECRETS)).get("configs", [])
        pending = [each.get("name", "") for each in secrets if each.get("version_info") in _NO_VERSION]
        missing = [subscriptions.scope_of(name) for name in pending] + ([] if listeners else [subscriptions.LISTENERS])
        return [subscriptions.subscription(scope) for scope in missing]

    @_sensible
    async def upstreams(self) -> dict[str, list[Upstream]]:
        """Return the endpoints of each of its clusters, by name."""
        answer = await self._json("/clusters?format=json")
        return {
            str(each.get("name", "")): [_upstream(host) for host in each.get("host_statuses", [])]
            for each in answer.get("cluster_statuses", [])
        }

    @_sensible
    async def connect_failures(self, cluster: str) -> ConnectFailures:
        """Return how its connections to a cluster fail; no counts if the operator hides them."""
        lines = (await self._get(_CONNECT_FAILURES)).decode().splitlines()
        prefix = f"cluster.{cluster.replace(':', '_')}."
        pairs = (line.removeprefix(prefix).partition(": ") for line in lines if line.startswith(prefix))
        counts = {name: int(value) for name, _, value in pairs}
        return ConnectFailures(
            untrusted=sum(value for name, value in counts.items() if name.startswith("ssl.fail_verify_")),
            tls=counts.get("ssl.connection_error", 0),
            unanswered=counts.get("upstream_cx_connect_timeout", 0),
        )

    @_sensible
    async def _unready(self) -> list[str]:
        """Return the names of the init targets it waits for before its workers start."""
        waiting = await self._json("/init_dump")
        return [name for each in waiting.get("unready_targets_dumps", []) for name in each.get("target_names", [])]

    async def is_live(self) -> bool:
        """Return whether its workers serve."""
        return await self.state() == "LIVE"

    @_sensible
    async def certificates(self) -> list[LoadedCertificate]:
        """Return the leaf of every chain it has loaded."""
        answer = await self._json("/certs")
        chains = [chain for each in answer.get("certificates", []) for chain in each.get("cert_chain", [])]
        return [LoadedCertificate(chain.get("path", ""), int(chain.get("serial_number", "0"), 16)) for chain in chains]

    @_sensible
    async def listeners(self) -> set[ListenAddress]:
        """Return every address that it listens on."""
        answer = await self._json("/listeners?format=json")
        found = set()
        for status in answer.get("listener_statuses", []):
            if status.get("name") != gate.NAME:
                addresses = [status.get("local_address", {}), *status.get("additional_local_addresses", [])]
                found |= {place for each in addresses if (place := _place(each)) is not None}
        return found

    @_sensible
    async def listener_changes(self) -> str:
        """Return a text that changes whenever the set of listeners changes.

        It is the listener manager's counters, or the list of listeners if the operator hides those.
        """
        counters = await self._get(_CHANGES)
        return (counters or await self._get("/listeners?format=json")).decode()

    @_sensible
    async def connections(self, inbound: Inbound | None = None) -> int | None:
        """Return the number of client connections without admin's; None if the operator hides it.

        With `inbound`, count only connections to these listeners.
        """
        lines = (await self._get(_CONNECTIONS)).decode().splitlines()
        counts = [int(line.rpartition(":")[2]) for line in lines if _counts_clients(line) and _is_of(line, inbound)]
        return sum(counts) if counts else None

    @_sensible
    async def inbound(self) -> Inbound:
        """Return its listeners whose traffic_direction is INBOUND."""
        found = _listeners(await self._json(_STATIC), await self._json_or_nothing(_DYNAMIC))
        inward = [each for each in found if each.get("traffic_direction") in _INBOUND]
        return Inbound(
            frozenset(place for each in inward for place in _addresses(each)),
            frozenset(scope for each in inward if (scope := _scope(each)) is not None),
        )

    @_sensible
    async def tls_listeners(self) -> list[TlsListener]:
        """Return where clients see a certificate from the epoch's own files, first chains first."""
        return tls_listeners.find(
            _listeners(await self._json_or_nothing(_STATIC), await self._json_or_nothing(_DYNAMIC))
        )

    async def close_inbound(self) -> None:
        """Close its inbound listeners and ask their clients to reconnect; the others stay open."""
        await self._get(_CLOSE_INBOUND, method="POST")
        await self._get(_ASK_INBOUND_TO_LEAVE, method="POST")

    async def _json_or_nothing(self, target: str) -> dict[str, Any]:
        """Return the response; an empty object if Envoy has no such resource and sends an error."""
        try:
            return await self._json(target)
        except _AdminError:
            return {}

    async def _get(self, target: str, method: str = "GET") -> bytes:
        try:
            status, body = await client.fetch(self.place, target, method=method, timeout=_TIMEOUT)
        except OSError as error:
            message = f"cannot ask {self.path}{target}: {str(error) or 'no answer in time'}"
            raise MachineError(message) from error
        if status != 200:
            message = f"cannot ask {self.path}{target}: status {status}"
            raise _AdminError(message)
        return body

    async def _json(self, target: str) -> dict[str, Any]:
        try:
            return await _tree(await self._get(target))
        except ValueError as error:
            message = f"cannot read the answer of {self.path}{target}: {error}"
            raise MachineError(message) from error


def _listeners(static: dict[str, Any], dynamic: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the listeners in two answers of /config_dump."""
    found = [each.get("listener", {}) for each in static.get("configs", [])]
    return found + [each.get("active_state", {}).get("listener", {}) for each in dynamic.get("configs", [])]


def _upstream(host: dict[str, Any]) -> Upstream:
    address = host.get("address", {})
    inner = address.get("socket_address", {})
    where = address.get("pipe", {}).get("path") or f"{inner.get('address', '')}:{inner.get('port_value', '')}"
    counts = {each.get("name"): int(each.get("value", 0)) for each in host.get("stats", [])}
    # One on which no request was sent is still being opened: the peer does not go on with TLS.
    active = counts.get("cx_active", 0) if counts.get("rq_total", 1) else 0
    name = host.get("hostname", "")
    named = f"{name}:{inner['port_value']}" if name and "port_value" in inner else ""
    return Upstream(where, active, counts.get("cx_connect_fail", 0), "" if named == where else named)


def _counts_clients(line: str) -> bool:
    """Return whether a line is a listener's total, and not admin's or one worker's share."""
    return line.startswith("listener.") and not line.startswith("listener.admin.") and ".worker_" not in line


class _AdminError(MachineError):
    """The admin interface responded with an error status."""


def _is_of(line: str, inbound: Inbound | None) -> bool:
    return inbound is None or line.removeprefix("listener.").rpartition(".")[0] in inbound.scopes


def _addresses(listener: dict[str, Any]) -> list[ListenAddress]:
    more = [each.get("address", {}) for each in listener.get("additional_addresses", [])]
    return [place for each in [listener.get("address", {}), *more] if (place := _place(each)) is not None]


def _scope(listener: dict[str, Any]) -> str | None:
    """Return the scope in a listener's counters: `stat_prefix`, or the address without scheme."""
    if prefix := listener.get("stat_prefix"):
        return str(prefix).replace(":", "_")
    place = _place(listener.get("address", {}))
    return None if place is None else place.address.partition("://")[2].replace(":", "_")


def _place(address: dict[str, Any]) -> ListenAddress | None:
    """Convert an address of the admin interface to the hot-restart protocol's spelling."""
    if "pipe" in address:
        return ListenAddress(f"unix://{address['pipe'].get('path', '')}")
    inner = address.get("socket_address")
    if inner is None:
        return None
    host, port = str(inner.get("address", "")), str(inner.get("port_value", 0))
    scheme = str(inner.get("protocol", "TCP")).lower()
    namespace = str(inner.get("network_namespace_filepath", ""))
    return ListenAddress.at(scheme, host, port, namespace)
