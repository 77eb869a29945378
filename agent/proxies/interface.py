"""The interface between the supervisor and a kind of proxy.

`processes`, `inputs` and `supervisor` use proxies through these protocols only. A kind of proxy is a package beside
this module with one class that has the methods of `Proxy`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agent.certificates.references import Reference
from agent.handoff.socket_store import ListenAddress
from agent.http.client import UnixPlace
from agent.http.message import Request, Response

if TYPE_CHECKING:
    from agent.proxies.link import EpochContext, EpochLink, LinkEvents

# Data


@dataclass(frozen=True, slots=True)
class StaticListener:
    """A listening address in the static configuration."""

    place: ListenAddress
    reuse_port: bool
    dual_stack: bool

    @property
    def is_udp(self) -> bool:
        """Whether it receives datagrams."""
        return self.place.address.startswith("udp://")


@dataclass(frozen=True, slots=True)
class TlsListener:
    """An address at which clients see a certificate from the epoch's own files.

    `place` is the bound address, perhaps a wildcard. `server_name` selects the certificate; None: any name does.
    """

    place: ListenAddress
    server_name: str | None


@dataclass(frozen=True, slots=True)
class AdminAddress:
    """The configured admin address, and the allowed paths in the proxy's own form; none: all."""

    address: str
    allowed: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class LoadedCertificate:
    """A leaf that an epoch has loaded: the path of its file and its serial number."""

    path: str
    serial: int


@dataclass(frozen=True, slots=True)
class Inbound:
    """The inbound listeners, for downstream clients: addresses and prefixes of their statistics."""

    places: frozenset[ListenAddress]
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Upstream:
    """An endpoint of a cluster: its address and its numbers of open and failed connections.

    `name`: host and port as configured, if the address was resolved from it.
    """

    address: str
    active: int
    failed: int
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.address})" if self.name else self.address


@dataclass(frozen=True, slots=True)
class ConnectFailures:
    """How connections to a cluster fail after the kernel has opened them: counts by cause.

    `untrusted`: its certificate failed verification. `tls`: it ended the handshake. `unanswered`: it did not go on.
    """

    untrusted: int = 0
    tls: int = 0
    unanswered: int = 0


@dataclass(frozen=True, slots=True)
class Complaint:
    """A proxy's reason for rejecting a configuration, in one line, and the files that it names.

    `concerns_arguments`: it rejects the operator's arguments, not the configuration.
    """

    text: str
    paths: frozenset[str] = frozenset()
    concerns_arguments: bool = False


@dataclass(frozen=True, slots=True)
class Subscription:
    """A resource that an epoch fetches: counts of updates applied, rejected and not received.

    `description` names it in messages. Without an essential one, an epoch serves no client or has no certificate.
    `secret` is the name of the secret that it delivers, if any. `given_up`: the proxy's wait for the first update timed
    out.
    """

    scope: str
    description: str
    applied: int = 0
    rejected: int = 0
    failed: int = 0
    given_up: bool = False
    is_essential: bool = False
    secret: str | None = None

    @property
    def is_refused(self) -> bool:
        """Whether updates were rejected and none was applied."""
        return self.rejected > 0 and not self.applied

    def __str__(self) -> str:
        return self.description


Subscriptions = Mapping[str, Subscription]
"""Subscriptions by scope."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """A subscription as a running epoch has it: the applied version, and the number of rejected updates."""

    version: str
    rejected: int


class PushRefusedError(Exception):
    """The proxy rejected what was pushed; `scope` is the subscription."""

    def __init__(self, scope: str) -> None:
        super().__init__(scope)
        self.scope = scope


# A configuration


class Delivery(Protocol):
    """Delivers the certificates of one epoch, at its start and while it runs."""

    @property
    def scopes(self) -> Collection[str]:
        """The scopes of its subscriptions, see `Subscription`."""

    @property
    def refused(self) -> Sequence[Subscription]:
        """The subscriptions whose newest content it has refused, as its requests tell, later than its counters."""

    @property
    def drains(self) -> bool:
        """Whether connections of a changed certificate end, by the proxy's own deadline."""

    def offer(self, numbers: Mapping[str, int], contents: Mapping[str, bytes]) -> None:
        """Offer files, by path: their descriptors in the epoch and their contents."""

    def assume(self, numbers: Mapping[str, int], contents: Mapping[str, bytes]) -> None:
        """Record what an earlier agent delivered."""

    async def answer(self, request: Request) -> Response | None:
        """Answer a request of the epoch at its gate, once there is something new; None for another kind of request."""

    async def push(
        self, admin: "Admin", numbers: Mapping[str, int], contents: Mapping[str, bytes], *, again: bool = False
    ) -> None:
        """Offer files to the running epoch and return when it has applied them; `again`: even if unchanged.

        Raises `PushRefusedError` if it rejects them, `MachineError` if it does not respond. The caller limits the time.
        """


class Copies(Protocol):
    """The copies of a configuration that epochs run from, in which files are descriptors."""

    def fill(
        self, directory: str, number: int, descriptors: Mapping[str, int], *, as_json: bool = False
    ) -> tuple[str, str | None]:
        """Return the configuration and extra document of one epoch. `descriptors`: path to number."""

    def fill_pushable(
        self, directory: str, number: int, descriptors: Mapping[str, int], *, as_json: bool
    ) -> tuple[str, str | None, Delivery]:
        """Return the configuration and extra document of an epoch that takes pushes, and its delivery."""

    def tree(self, directory: str, descriptors: Mapping[str, int]) -> Mapping[str, str | bytes]:
        """Return what the configuration of `fill` needs in the directory, by relative path.

        A text is the target of a symbolic link, bytes are a file's. Each path has a directory, whose name tells its
        content: equal names mean equal content.
        """

    def prepare(self, *, as_json: bool) -> None:
        """Make the copies now, so that no event is delayed by it later."""

    def are_made(self, *, as_json: bool) -> bool:
        """Return whether all copies are made."""

    def hold_resources(self, descriptors: dict[str, int], hold: Callable[[str, bytes], int]) -> None:
        """Add the resource files to `descriptors`; `hold` stores one's bytes and returns its number."""


class Configuration(Protocol):
    """An operator's configuration, with the resource files that it names."""

    @property
    def name(self) -> str:
        """The path of the configuration file."""

    @property
    def extra(self) -> str | None:
        """The extra document from the operator's arguments for the proxy."""

    @property
    def references(self) -> list[Reference]:
        """Every certificate, key and bundle that a document names."""

    @property
    def resource_references(self) -> frozenset[str]:
        """The paths that resource files name."""

    @property
    def listeners(self) -> list[StaticListener]:
        """Every listener that a document names."""

    @property
    def protobuf_sources(self) -> list[str]:
        """The resource files that only the proxy can read, and watches by itself."""

    @property
    def control_planes(self) -> list[str]:
        """The names of the control planes that deliver resources."""

    @property
    def unread(self) -> list[str]:
        """The resource files that are named and were not provided.

        A name with a wildcard stands for the list of the paths that match it, one a line.
        """

    @property
    def has_dynamic_listeners(self) -> bool:
        """Whether listeners may be added and removed while an epoch runs."""

    @property
    def has_udp(self) -> bool:
        """Whether a listener receives datagrams."""

    @property
    def is_static(self) -> bool:
        """Whether an epoch is fully loaded without fetching any resource."""

    @property
    def sets(self) -> Mapping[str, str | None]:
        """The sets of resources that an epoch fetches: scope to file, None for a control plane."""

    @property
    def admin_address(self) -> AdminAddress | None:
        """The admin address that the operator configured, if any."""

    @property
    def pushable_files(self) -> frozenset[str]:
        """The certificate files whose contents can be pushed into a running epoch."""

    def address_of(self, control_plane: str) -> str | None:
        """Return host and port, or the path, of a control plane as configured; None if the documents have none."""

    def groups_in(self, path: str) -> frozenset[str]:
        """Return the certificate groups that a resource file names."""

    def source_of(self, subscription: Subscription) -> str | None:
        """Return the file that a subscription reads; None for a control plane."""

    def copies(self, materialised: Collection[str]) -> Copies:
        """Return the copies in which these paths and the resource files are descriptors."""


# A running epoch


class Admin(Protocol):
    """A client of an epoch's admin interface. Methods raise `MachineError` on a bad response."""

    path: Path
    pid: int | None
    """The only process whose responses are accepted, once it is known."""

    @property
    def place(self) -> UnixPlace:
        """The address of the admin interface."""

    async def responds(self) -> bool:
        """Return True when it responds or is unreachable, False on another error.

        There is no timeout: a hung proxy answers this one request when it continues.
        """

    def exposition(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Return its metrics in Prometheus's text format.

        The method, the query and the Accept header of the request count. Raises `OSError` if it has none.
        """

    async def state(self) -> str:
        """Return LIVE, PRE_INITIALIZING, INITIALIZING or DRAINING; UNTESTED while the agent makes requests."""

    async def is_live(self) -> bool:
        """Return whether its workers serve."""

    async def waits_at_gate(self) -> bool:
        """Return whether the gate has not responded to it yet."""

    async def waits_only_for_gate(self) -> bool:
        """Return whether everything but the gate is loaded."""

    async def waits_for(self) -> list[str]:
        """Return what it waits for besides the gate, in the proxy's own words; UNTESTED: how it answered."""

    async def subscriptions(self) -> Subscriptions:
        """Return its subscriptions; none if the operator hides their counters."""

    async def deliveries(self, scopes: Collection[str]) -> Mapping[str, Delivered]:
        """Return what it has of these subscriptions, by scope; none if the operator hides their counters."""

    async def unseen(self) -> list[Subscription]:
        """Return the subscriptions without an update, determined without counters."""

    async def rejections(self) -> list[str]:
        """Return its reasons for rejecting updates of a control plane or a file, if available."""

    async def upstreams(self) -> dict[str, list[Upstream]]:
        """Return the endpoints of each of its clusters, by name."""

    async def connect_failures(self, cluster: str) -> ConnectFailures:
        """Return how its connections to a cluster fail; no counts if the operator hides them."""

    async def certificates(self) -> list[LoadedCertificate]:
        """Return the leaf of every chain it has loaded."""

    async def listeners(self) -> set[ListenAddress]:
        """Return every address that it listens on."""

    async def listener_changes(self) -> str:
        """Return a text that changes whenever the set of listeners changes."""

    async def tls_listeners(self) -> list[TlsListener]:
        """Return the addresses where clients see a certificate, all first filter chains first."""

    async def connections(self, inbound: Inbound | None = None) -> int | None:
        """Return the number of client connections, or of those to `inbound`; None if not counted."""

    async def inbound(self) -> Inbound:
        """Return the listeners that clients connect to."""

    async def close_inbound(self) -> None:
        """Close the inbound listeners and ask their clients to reconnect; the others stay open."""


class Forwarder(Protocol):
    """Forwards HTTP requests to an epoch's admin interface, as far as the operator allows."""

    target: UnixPlace | None

    async def answer(self, request: Request) -> Response:
        """Forward a request to the target and return its response."""


# A kind of proxy


class Proxy(Protocol):
    """A kind of proxy, with the operator's own arguments for it."""

    @property
    def version_probe(self) -> tuple[str, ...]:
        """The arguments that make the program print its version."""

    @property
    def handoff_probe(self) -> tuple[str, ...] | None:
        """The arguments that make the program print the version of its hot-restart protocol; None if it has none."""

    @property
    def is_multi_user(self) -> bool:
        """Whether its processes open paths in an epoch's directory as another user than the one it is started as."""

    @property
    def reserved_descriptors(self) -> int:
        """How many descriptors, from 3 on, its processes get by number, so that the agent must not use them."""

    @property
    def needs_certificates(self) -> bool:
        """Whether it can only be started with a configuration or with certificates."""

    @property
    def udp_overlap(self) -> int:
        """Seconds in which a draining epoch forwards datagrams to the next one."""

    @property
    def identity(self) -> bytes:
        """The operator's arguments as bytes: different ones make a different revision."""

    @property
    def push_form(self) -> bytes:
        """How certificates are pushed, as bytes: an epoch takes only pushes of the form that it was started in."""

    @property
    def extra_document(self) -> str | None:
        """A document in the operator's arguments that extends the configuration."""

    def version(self, output: str) -> tuple[str, bool]:
        """Parse the output of `version_probe`.

        Returns the version, and whether the program reads JSON from a descriptor. Raises `BadInput` if it is too old.
        """

    def configuration(
        self, text: str, name: str, extra: str | None = None, resources: Mapping[str, bytes] | None = None
    ) -> Configuration:
        """Parse a configuration. Raises `BadInput` naming the file, the line and the next step."""

    def merged(self, text: str, name: str, over: str, over_name: str) -> str:
        """Return a configuration with a document merged over it, in the configuration's own format.

        Raises `BadInput` naming the file and the line.
        """

    def default_configuration(
        self,
        listen: tuple[str, int],
        forward: tuple[str, int],
        references: Iterable[Reference],
        names: Mapping[str, Collection[str]],
    ) -> str:
        """Return a configuration that serves these certificates at one address for one service.

        `names`: of some groups, the DNS names in the certificate.
        """

    def validate(self, copy: int, extra: str | None, configuration: Configuration) -> list[str]:
        """Return the arguments of a run that only validates a configuration."""

    def rehearse(self, copy: int, extra: str | None, configuration: Configuration) -> list[str]:
        """Return the arguments of a run that starts, binds its listening sockets without listening, and exits."""

    def complaint(
        self, output: str, descriptors: Mapping[int, str], configuration: Configuration | None = None
    ) -> Complaint:
        """Find the complaint in a proxy's output about a configuration.

        `descriptors`: number to the path it replaces.
        """

    def rejection(self, message: str, descriptors: Mapping[int, str]) -> Complaint:
        """Parse a complaint from the admin interface."""

    def missing(self, found: Subscriptions, serving: Subscriptions) -> list[Subscription]:
        """Return the subscriptions that a candidate needs and lacks, the rejected ones first."""

    def link(self, context: "EpochContext", events: "LinkEvents") -> "EpochLink":
        """Return the link to an epoch of this kind."""

    def forwarder(self, allowed: Sequence[object]) -> Forwarder:
        """Return a forwarder limited to the allowed paths of an `AdminAddress`."""
