"""The seam between the supervisor and a kind of proxy: what differs from one kind to another is asked here.

`processes`, `inputs` and `supervisor` know proxies by these protocols only. A kind of proxy is a package beside this
module with one class that has the methods of `Proxy`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.certificates.references import Reference
from agent.handoff.socket_paths import SocketPaths
from agent.handoff.socket_store import ListenAddress
from agent.http.client import UnixPlace
from agent.http.message import Request, Response

# Facts


@dataclass(frozen=True, slots=True)
class StaticListener:
    """An address that the configuration itself names."""

    place: ListenAddress
    reuse_port: bool
    dual_stack: bool

    @property
    def is_udp(self) -> bool:
        """Whether it takes datagrams."""
        return self.place.address.startswith("udp://")


@dataclass(frozen=True, slots=True)
class TlsListener:
    """An address at which clients see a certificate from the epoch's own files.

    `place` is what it is bound to, perhaps every address. `server_name` selects the certificate; None: any name does.
    """

    place: ListenAddress
    server_name: str | None


@dataclass(frozen=True, slots=True)
class AdminAddress:
    """The admin address that a configuration names, and the paths it allows, in the proxy's own form; none: all."""

    address: str
    allowed: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class LoadedCertificate:
    """A leaf that an epoch has loaded: the path of its file and its serial number."""

    path: str
    serial: int


@dataclass(frozen=True, slots=True)
class Inbound:
    """The listeners that clients connect to: their addresses, and the prefixes of their statistics."""

    places: frozenset[ListenAddress]
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Upstream:
    """An endpoint of a cluster: its address, and how many connections to it are open, and failed to open."""

    address: str
    active: int
    failed: int


@dataclass(frozen=True, slots=True)
class Complaint:
    """A proxy's reason for refusing a configuration, in one line, and the files that it names."""

    text: str
    paths: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Subscription:
    """Something an epoch fetches: how often an update was applied, rejected by the proxy, or not received.

    `description` names it in messages. Without an essential one an epoch serves no client, or shows no certificate.
    `secret` is the name of the secret that it brings, if it does. `given_up`: the proxy waits for its first update no
    longer.
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
        """Whether updates came, and none could be used."""
        return self.rejected > 0 and not self.applied

    def __str__(self) -> str:
        return self.description


Subscriptions = Mapping[str, Subscription]
"""Subscriptions by scope."""


# A configuration


class Copies(Protocol):
    """The private copies of a configuration that epochs run from, in which files are descriptors."""

    def fill(
        self, directory: str, number: int, descriptors: Mapping[str, int], *, as_json: bool = False
    ) -> tuple[str, str | None]:
        """Return the configuration and the extra document for one epoch. `descriptors`: path to number."""

    def prepare(self, *, as_json: bool) -> None:
        """Make the copies now, so that no event waits for it later."""

    def are_made(self, *, as_json: bool) -> bool:
        """Whether there is nothing left to prepare."""

    def hold_resources(self, descriptors: dict[str, int], hold: Callable[[str, bytes], int]) -> None:
        """Add the files of resources to `descriptors`; `hold` opens the bytes of one and returns its number."""


class Configuration(Protocol):
    """An operator's configuration, with the files of resources that it names."""

    @property
    def name(self) -> str:
        """The path of its file."""

    @property
    def extra(self) -> str | None:
        """The extra document from the proxy's own arguments."""

    @property
    def references(self) -> list[Reference]:
        """Every certificate, key and bundle that a document names."""

    @property
    def resource_references(self) -> frozenset[str]:
        """The paths that files of resources name."""

    @property
    def listeners(self) -> list[StaticListener]:
        """Every listener that a document names."""

    @property
    def protobuf_sources(self) -> list[str]:
        """The files of resources that only the proxy can read, and follows by itself."""

    @property
    def control_planes(self) -> list[str]:
        """The names of the control planes that resources come from."""

    @property
    def unread(self) -> list[str]:
        """The files of resources that are named and were not given."""

    @property
    def has_dynamic_listeners(self) -> bool:
        """Whether listeners come and go while an epoch runs."""

    @property
    def has_udp(self) -> bool:
        """Whether a listener takes datagrams."""

    @property
    def is_static(self) -> bool:
        """Whether an epoch fetches nothing before it is whole."""

    @property
    def sets(self) -> Mapping[str, str | None]:
        """The sets of resources that an epoch fetches, by scope, and from which file; None: from a control plane."""

    @property
    def admin_address(self) -> AdminAddress | None:
        """The admin address that the operator wants, if any."""

    def units_in(self, path: str) -> frozenset[str]:
        """Return the certificate groups that one file of resources names."""

    def source_of(self, subscription: Subscription) -> str | None:
        """Return the file that a subscription reads; None for a control plane."""

    def copies(self, materialised: Collection[str]) -> Copies:
        """Return the private copies in which these paths and the files of resources are descriptors."""


# A running epoch


class Admin(Protocol):
    """An epoch's admin interface. Every question raises `MachineError` where there is no sensible answer."""

    path: Path
    pid: int | None
    """The only process that may answer there, once it is known."""

    @property
    def place(self) -> UnixPlace:
        """Where it answers."""

    async def state(self) -> str:
        """Return LIVE, PRE_INITIALIZING, INITIALIZING or DRAINING."""

    async def is_live(self) -> bool:
        """Whether its workers serve."""

    async def waits_at_gate(self) -> bool:
        """Whether the gate has not answered it yet."""

    async def waits_only_for_gate(self) -> bool:
        """Whether all that it loads is there."""

    async def waits_for(self) -> list[str]:
        """Return what it waits for besides the gate, in its own words."""

    async def subscriptions(self) -> Subscriptions:
        """Return its subscriptions; none where the operator hides their counters."""

    async def unseen(self) -> list[Subscription]:
        """Return the subscriptions without an update, found without counters."""

    async def rejections(self) -> list[str]:
        """Return why it rejected what a control plane or a file brought, as far as it says."""

    async def upstreams(self) -> dict[str, list[Upstream]]:
        """Return the endpoints of each of its clusters, by name."""

    async def certificates(self) -> list[LoadedCertificate]:
        """Return the leaf of every chain it has loaded."""

    async def listeners(self) -> set[ListenAddress]:
        """Return every address that it listens on."""

    async def listener_changes(self) -> str:
        """Return a text that differs after the set of listeners has changed."""

    async def tls_listeners(self) -> list[TlsListener]:
        """Return where clients see a certificate, each listener's first filter chain first."""

    async def connections(self, inbound: Inbound | None = None) -> int | None:
        """Return how many clients are connected, with `inbound` to these listeners; None where that is not counted."""

    async def inbound(self) -> Inbound:
        """Return the listeners that clients connect to."""

    async def close_inbound(self) -> None:
        """Close the inbound listeners and ask their clients to go; the others stay open."""


class Forwarder(Protocol):
    """Answers HTTP requests in the place of an epoch's admin interface, as far as the operator allows."""

    target: UnixPlace | None

    async def answer(self, request: Request) -> Response:
        """Pass a request on to the target."""


# A kind of proxy


class Proxy(Protocol):
    """A kind of proxy, with the operator's own arguments for it."""

    @property
    def version_probe(self) -> tuple[str, ...]:
        """The arguments that make the program print its version."""

    @property
    def handoff_probe(self) -> tuple[str, ...]:
        """The arguments that make it print the version of its hot-restart protocol."""

    @property
    def udp_overlap(self) -> int:
        """Seconds in which a draining epoch forwards datagrams to the next one."""

    @property
    def identity(self) -> bytes:
        """The operator's arguments: others make another revision."""

    @property
    def extra_document(self) -> str | None:
        """A document from those arguments that extends the configuration."""

    def version(self, output: str) -> tuple[str, bool]:
        """Return the version in the answer to `version_probe`, and whether it reads JSON from a descriptor."""

    def configuration(
        self, text: str, name: str, extra: str | None = None, resources: Mapping[str, bytes] | None = None
    ) -> Configuration:
        """Parse a configuration. Raises `BadInput` naming the file, the line and the next step."""

    def default_configuration(
        self, listen: tuple[str, int], forward: tuple[str, int], references: Iterable[Reference]
    ) -> str:
        """Return a configuration that serves these pairs at one address, in front of one service."""

    def launch(
        self,
        names: SocketPaths,
        copy: int,
        extra: str | None,
        number: int,
        configuration: Configuration,
        overlap: int = 0,
    ) -> list[str]:
        """Return the arguments of epoch `number`. `copy`: the descriptor of its private copy."""

    def validate(self, copy: int, extra: str | None, configuration: Configuration) -> list[str]:
        """Return the arguments of a run that only checks a configuration."""

    def complaint(self, output: str, descriptors: Mapping[int, str]) -> Complaint:
        """Find the complaint in a proxy's output. `descriptors`: number to the path that it stands for."""

    def rejection(self, message: str, descriptors: Mapping[int, str]) -> Complaint:
        """Read a complaint from the admin interface."""

    def missing(self, found: Subscriptions, serving: Subscriptions) -> list[Subscription]:
        """Return what a candidate needs and has not applied, the refused ones first."""

    def admin(self, path: Path) -> Admin:
        """Return the admin interface at a Unix socket."""

    def forwarder(self, allowed: Sequence[object]) -> Forwarder:
        """Return a forwarder that keeps to the paths of an `AdminAddress`."""
