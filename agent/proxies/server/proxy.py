"""Any server as a kind of proxy: it is told nothing but its own arguments, and tested as a client does."""

import signal
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.certificates.references import Reference
from agent.core.errors import BadInput, UsageError
from agent.proxies import interface
from agent.proxies.interface import Complaint
from agent.proxies.link import EpochContext, LinkEvents
from agent.proxies.server.check import Check
from agent.proxies.server.configuration import Configuration, listing
from agent.proxies.server.link import ServerLink
from agent.proxies.server.listeners import Listener
from agent.proxies.server.listeners import parse as parse_listeners
from agent.proxies.server.placeholders import placeholders, require_known
from agent.proxies.server.sockets import Groups
from agent.proxies.standalone import NoForwarder, NoOverride

_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Server(NoOverride):
    """A server with the operator's arguments and the listeners of --listen."""

    arguments: tuple[str, ...]
    listeners: tuple[Listener, ...]
    check: Check | None = None
    notifies: bool = False
    drain_signal: signal.Signals = signal.SIGTERM
    groups: Groups = field(default_factory=dict, compare=False)
    version_probe: tuple[str, ...] = ()
    handoff_probe: tuple[str, ...] | None = None
    is_multi_user: bool = False

    @classmethod
    def parse(
        cls,
        arguments: Sequence[str],
        listeners: Sequence[str],
        *,
        check: str | None,
        notifies: bool,
        drain_signal: str,
        has_config: bool,
    ) -> "Server":
        """Return the kind with these options. Raises `UsageError`."""
        given = parse_listeners(listeners)
        if not given:
            message = "cannot run a server without a listener: give it one by --listen web=127.0.0.1:8080"
            raise UsageError(message)
        names = [each.name for each in given]
        require_known(placeholders(arguments), names, has_config=has_config)
        parsed = None if check is None else Check.parse(check)
        if parsed is not None and parsed.listener and parsed.listener not in names:
            message = f"cannot use --check: there is no listener {parsed.listener}; the names are: {', '.join(names)}"
            raise UsageError(message)
        return cls(tuple(arguments), given, parsed, notifies, signal.Signals[drain_signal])

    @property
    def reserved_descriptors(self) -> int:
        """How many descriptors from 3 on the server gets by number."""
        return len(self.listeners)

    @property
    def needs_certificates(self) -> bool:
        """Whether its arguments name pairs of the certificate directories."""
        return any(each.kind in {"cert", "key"} and not each.is_path for each in placeholders(self.arguments))

    @property
    def identity(self) -> bytes:
        """The operator's options as bytes: different ones make a different revision."""
        return repr(("server", self.arguments, self.listeners, self.drain_signal)).encode()

    @property
    def push_form(self) -> bytes:
        """Constant: nothing is pushed."""
        return b""

    def version(self, output: str) -> tuple[str, bool]:
        """Return that the version is unknown: each server has another way to ask for it."""
        del output
        return "unknown", False

    def configuration(
        self, text: str, name: str, extra: str | None = None, resources: Mapping[str, bytes] | None = None
    ) -> Configuration:
        """Parse the placeholders. Raises `BadInput` naming the placeholder."""
        del extra, resources
        configuration = Configuration(text, name, self.arguments, self.listeners)
        try:
            require_known(configuration.used, [each.name for each in self.listeners], has_config=True)
        except UsageError as error:
            raise BadInput(str(error)) from error
        return configuration

    def default_configuration(
        self,
        listen: tuple[str, int],
        forward: tuple[str, int],
        references: Iterable[Reference],
        names: Mapping[str, Collection[str]],
    ) -> str:
        """Return the list of these pairs: the arguments name them."""
        del listen, forward, names
        return listing(references, placeholders(self.arguments))

    def validate(self, copy: int, extra: str | None, configuration: interface.Configuration) -> list[str]:
        """Return nothing: only a start tells whether a server takes its arguments."""
        del copy, extra, configuration
        return []

    def rehearse(self, copy: int, extra: str | None, configuration: interface.Configuration) -> list[str]:
        """Return nothing, see `validate`."""
        return self.validate(copy, extra, configuration)

    def complaint(
        self, output: str, descriptors: Mapping[int, str], configuration: interface.Configuration | None = None
    ) -> Complaint:
        """Return the last line of its output."""
        del configuration
        lines = [line for line in output.splitlines() if line.strip()]
        return self.rejection(lines[-1] if lines else "it printed no message", descriptors)

    def rejection(self, message: str, descriptors: Mapping[int, str]) -> Complaint:
        """Return a message in one line."""
        del descriptors
        words = " ".join(message.split())
        return Complaint(words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…")

    def link(self, context: EpochContext, events: LinkEvents) -> ServerLink:
        """Return the link to an epoch of this kind."""
        return ServerLink(
            context, events, self.groups, self.check, notifies=self.notifies, drain_signal=self.drain_signal
        )

    def forwarder(self, allowed: Sequence[object]) -> NoForwarder:
        """Return what answers that there is no admin interface."""
        del allowed
        return NoForwarder("the agent knows no admin interface of this server")
