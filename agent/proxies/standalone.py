"""What proxies without a control plane have in common: the answers about resources that they do not fetch."""

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from glob import escape
from pathlib import Path

from agent.certificates.references import Reference
from agent.core.errors import BadInput
from agent.handoff.socket_store import ListenAddress
from agent.http.client import UnixPlace
from agent.http.message import Request, Response
from agent.proxies.interface import (
    AdminAddress,
    ConnectFailures,
    Delivered,
    Inbound,
    LoadedCertificate,
    StaticListener,
    Subscription,
    Subscriptions,
    TlsListener,
    Upstream,
)


class StandaloneConfiguration:
    """A configuration in files only: it fetches nothing, and its listeners do not change while it runs."""

    extra: str | None = None
    has_dynamic_listeners = False
    has_udp = False
    is_static = True
    admin_address: AdminAddress | None = None
    resource_references: frozenset[str] = frozenset()

    def __init__(self, name: str) -> None:
        self.name = name
        self.references: list[Reference] = []
        self.listeners: list[StaticListener] = []
        self.tls_listeners: list[TlsListener] = []
        self.unread: list[str] = []
        self.pushable_files: frozenset[str] = frozenset()
        self.protobuf_sources: list[str] = []
        self.control_planes: list[str] = []
        self.sets: Mapping[str, str | None] = {}

    def address_of(self, control_plane: str) -> str | None:
        """Return None: it has no control plane."""
        del control_plane
        return None

    def groups_in(self, path: str) -> frozenset[str]:
        """Return no group: a file that it includes is part of the configuration."""
        del path
        return frozenset()

    def source_of(self, subscription: Subscription) -> str | None:
        """Return None: it has no subscription."""
        del subscription
        return None


class StandaloneAdmin:
    """The admin interface of a proxy that fetches nothing; `configuration` knows its TLS listeners.

    `path` is a Unix socket of the epoch, if it has one. Subclasses add what their proxy can tell.
    """

    def __init__(self, path: Path, configuration: StandaloneConfiguration) -> None:
        self.path = path
        self.pid: int | None = None
        self.found: Collection[ListenAddress] = ()  # where it listens, once that is known
        self._configuration = configuration

    @property
    def place(self) -> UnixPlace:
        """The address of the admin interface."""
        return self.path

    async def responds(self) -> bool:
        """Return True: it has no interface that could stop to respond."""
        return True

    async def state(self) -> str:
        """Return LIVE: it has no other state that it could tell."""
        return "LIVE"

    async def is_live(self) -> bool:
        """Return True, see `state`."""
        return True

    async def waits_at_gate(self) -> bool:
        """Return False: the gate itself knows."""
        return False

    async def waits_only_for_gate(self) -> bool:
        """Return True: it reaches the gate once everything is loaded."""
        return True

    async def waits_for(self) -> list[str]:
        """Return nothing."""
        return []

    async def subscriptions(self) -> Subscriptions:
        """Return none."""
        return {}

    async def deliveries(self, scopes: Collection[str]) -> Mapping[str, Delivered]:
        """Return none."""
        del scopes
        return {}

    async def unseen(self) -> list[Subscription]:
        """Return none."""
        return []

    async def rejections(self) -> list[str]:
        """Return none."""
        return []

    async def upstreams(self) -> dict[str, list[Upstream]]:
        """Return none."""
        return {}

    async def connect_failures(self, cluster: str) -> ConnectFailures:
        """Return no counts."""
        del cluster
        return ConnectFailures()

    async def certificates(self) -> list[LoadedCertificate]:
        """Return none: they were loaded from the files that it was given."""
        return []

    async def listeners(self) -> set[ListenAddress]:
        """Return the addresses that its sockets have."""
        return {place.listener for place in self.found}

    async def listener_changes(self) -> str:
        """Return a constant: they do not change."""
        return ""

    async def tls_listeners(self) -> list[TlsListener]:
        """Return what the configuration says."""
        return list(self._configuration.tls_listeners)

    async def connections(self, inbound: Inbound | None = None) -> int | None:
        """Return None: the kernel counts them."""
        del inbound
        return None

    async def inbound(self) -> Inbound:
        """Return every listener: it does not tell directions apart."""
        return Inbound(frozenset(await self.listeners()), frozenset())

    async def close_inbound(self) -> None:
        """Do nothing: all listeners close at the stop."""

    def exposition(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Raise `OSError`: it has no metrics."""
        del request
        message = "this kind of proxy has no metrics"
        raise OSError(message)


class NoForwarder:
    """Answers requests for an admin interface that speaks no HTTP. `why` is the answer."""

    target: UnixPlace | None = None

    def __init__(self, why: str) -> None:
        self._why = why

    async def answer(self, request: Request) -> Response:
        """Return 404 with the reason."""
        del request
        return Response(404, f"{self._why}\n".encode())


class NoOverride:
    """For kinds whose configuration is no document: nothing can be merged over it, and they have no UDP."""

    extra_document: str | None = None
    udp_overlap = 0

    def merged(self, text: str, name: str, over: str, over_name: str) -> str:
        """Raise `BadInput`."""
        del text, over
        message = f"cannot merge {over_name} over {name}: only a bootstrap of Envoy can be merged; leave it out"
        raise BadInput(message)

    def missing(self, found: Subscriptions, serving: Subscriptions) -> list[Subscription]:
        """Return none: it fetches nothing."""
        del found, serving
        return []


def every_name_in(directory: str) -> str:
    """Return the wildcard for all names in a directory, see `Configuration.unread`."""
    return f"{escape(directory)}/*"
