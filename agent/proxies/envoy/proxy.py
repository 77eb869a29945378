"""Envoy as a kind of proxy: its command line and its error messages; delegates the rest."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from yaml.nodes import Node

from agent.certificates.references import Reference
from agent.core.errors import BadInput
from agent.handoff.socket_paths import SocketPaths
from agent.proxies import interface
from agent.proxies.envoy import overrides, subscriptions
from agent.proxies.envoy.admin_client import AdminClient
from agent.proxies.envoy.admin_forwarder import Forwarder
from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.default_bootstrap import bootstrap
from agent.proxies.envoy.hot_restart_link import HotRestartLink
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.push_contexts import PushMode
from agent.proxies.interface import Complaint, Subscription, Subscriptions
from agent.proxies.link import EpochContext, LinkEvents

DEFAULT_LOG_FORMAT = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v"  # Envoy's own, docs: operations/cli
_LOG_LEVEL = "warning"  # at Envoy's default, info, each start logs some 140 lines
_JSON_LOG_FORMAT = (  # with the agent's own field names; %j is the message as the content of a JSON string
    '{"timestamp":"%Y-%m-%dT%T.%f%z","severityText":"%l","body":"%j","attributes":'
    '{"epoch":<epoch>,"logger":"%n","source":"%g:%#","thread":%t}}'
)
UDP_OVERLAP = 4  # seconds in which a draining epoch forwards datagrams to the next one
_VERSION = re.compile(r"version: (?:\w+/)?(\d+\.[^/\s]+)")  # <commit>/<version>/<state>/<build>/<library>
_ENVOY_VERSION = re.compile(r"version: [0-9a-f]{40}/((\d+)\.(\d+)[^/\s]*)")
_OLDEST = (1, 17)

_PREFIX = re.compile(r"^\[[^]]*]\[\d+]\[(?P<level>\w+)]\[\w+] (?:\[[^]]*] )?(?P<text>.*)$")
_COMPLAINT = re.compile(r"error initializing config(?:uration)? '[^']*': |^exception.*?: ", re.IGNORECASE)
_AT_START = re.compile(r"error `(.*?)` initializing config", re.DOTALL)  # a start, not a validation
_ARGUMENTS = re.compile(
    r"^(?:PARSE ERROR:|error: unknown (?:IP|log)|[\w.-]+: cannot (?:use|take|pass) -)", re.MULTILINE
)
_DOCUMENT = re.compile(r"\{.*\}", re.DOTALL)
_DEBUG = re.compile(r"goo\.gle/debug\w*[\s\w]*:\s*")  # how protobuf marks a repeated document
_DESCRIPTOR = re.compile(r"/dev/fd/(\d+)")
_LONGEST = 500  # maximum characters of a complaint


@dataclass(frozen=True, slots=True)
class Envoy:
    """Envoy, or a program that accepts its flags.

    `drain_time`: seconds over which a drain asks clients to reconnect. `logs_json`: each line of its log is a JSON
    object, unless the operator or the configuration names a format. `push`: how certificates are pushed, None if they
    are not; `push_drain`: the seconds after which a push ends the connections of a changed certificate.
    """

    flags: Flags
    drain_time: float
    logs_json: bool = False
    push: PushMode | None = None
    push_drain: float = 0.0
    version_probe: tuple[str, ...] = ("--version",)
    handoff_probe: tuple[str, ...] = ("--hot-restart-version",)
    udp_overlap: int = UDP_OVERLAP
    is_multi_user: bool = False
    reserved_descriptors: int = 0
    needs_certificates: bool = True

    @property
    def identity(self) -> bytes:
        """The operator's arguments as bytes: different ones make a different revision."""
        return repr(self.flags).encode()

    @property
    def push_form(self) -> bytes:
        """How certificates are pushed, as bytes: an epoch takes only pushes of the form that it was started in."""
        return repr(self.push).encode()

    @property
    def extra_document(self) -> str | None:
        """The operator's `--config-yaml` document."""
        return self.flags.config_yaml

    def version(self, output: str) -> tuple[str, bool]:
        """Parse the output of `--version`, of which the last line counts.

        Returns the version, and whether the program reads JSON from a descriptor: Envoy does, others read YAML. Raises
        `BadInput` for an Envoy without the options that `launch` passes.
        """
        output = last_line(output)
        number = _VERSION.search(output)
        envoy = _ENVOY_VERSION.search(output)
        if envoy is not None and (int(envoy[2]), int(envoy[3])) < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            message = f"it is Envoy {envoy[1]}, and the agent needs {oldest} or newer, which has --socket-path"
            raise BadInput(message)
        return (output, False) if number is None else (number[1], True)

    def configuration(
        self, text: str, name: str, extra: str | None = None, resources: Mapping[str, bytes] | None = None
    ) -> Configuration:
        """Parse a bootstrap. Raises `BadInput` naming the file, the line and the next step."""
        return Configuration(text, name, extra, resources, self.push)

    def merged(self, text: str, name: str, over: str, over_name: str) -> str:
        """Return a bootstrap with a document merged over it. Raises `BadInput` naming the file and the line."""
        return overrides.merged(text, name, over, over_name)

    def default_configuration(
        self,
        listen: tuple[str, int],
        forward: tuple[str, int],
        references: Iterable[Reference],
        names: Mapping[str, Collection[str]],
    ) -> str:
        """Return a bootstrap that serves these certificates at one address for one service."""
        del names  # it finds them itself
        return bootstrap(listen, forward, references)

    def complaint(
        self, output: str, descriptors: Mapping[int, str], configuration: interface.Configuration | None = None
    ) -> Complaint:
        """Find the complaint in Envoy's output."""
        del configuration
        last = _last_complaint(output).strip()
        at_start = _AT_START.match(last)
        found = self.rejection(_COMPLAINT.sub("", last) if at_start is None else at_start[1], descriptors)
        return replace(found, concerns_arguments=bool(_ARGUMENTS.search(output)))

    def rejection(self, message: str, descriptors: Mapping[int, str]) -> Complaint:
        """Parse a message in which `/dev/fd/N` replaces the path of a file."""
        named = (descriptors.get(int(number)) for number in _DESCRIPTOR.findall(message))
        return Complaint(readable(message, descriptors), frozenset(path for path in named if path is not None))

    def missing(self, found: Subscriptions, serving: Subscriptions) -> list[Subscription]:
        """Return the subscriptions that a candidate needs and lacks, the rejected ones first."""
        return subscriptions.missing(found, serving)

    def link(self, context: EpochContext, events: LinkEvents) -> HotRestartLink:
        """Return the link to an epoch of this kind."""

        def arguments(names: SocketPaths, copy: int, extra: str | None, overlap: int, drains: bool) -> list[str]:
            return self.launch(names, copy, extra, context.number, context.configuration, overlap, drains=drains)

        return HotRestartLink(context, events, self.admin(context.home / "admin"), arguments)

    def admin(self, path: Path) -> interface.Admin:
        """Return the admin interface at a Unix socket."""
        return AdminClient(path)

    def forwarder(self, allowed: Sequence[object]) -> Forwarder:
        """Return a forwarder limited to `allow_paths`."""
        return Forwarder([each for each in allowed if isinstance(each, Node)])

    def launch(
        self,
        names: SocketPaths,
        copy: int,
        extra: str | None,
        number: int,
        configuration: interface.Configuration,
        overlap: int = 0,
        *,
        drains: bool = False,
    ) -> list[str]:
        """Return the arguments of one epoch, which is restart epoch 1 of a base id of its own.

        `copy` is the descriptor of its configuration: Envoy 1.36 accepts no path below /dev except /dev/fd/N, and none
        below /proc. For `overlap` seconds, its predecessor continues to read the UDP sockets passed to it. With
        `drains` Envoy itself cuts the connections of a changed certificate at the end of its drain time, so that is
        their deadline, and it asks clients to leave at once instead of over the whole time.
        """
        drain_time = self.push_drain if drains else self.drain_time
        strategy = ["--drain-strategy", "immediate"] if drains and not self.flags.has_drain_strategy else []
        return [
            *self._common(copy, extra, configuration),
            *("--restart-epoch", "1"),
            *("--base-id", str(names.base_id)),
            *("--socket-path", str(names.prefix)),
            *("--socket-mode", "600"),
            *("--drain-time-s", str(max(1, round(drain_time)))),
            *strategy,
            *("--parent-shutdown-time-s", str(overlap)),
            *self._log_format(number, configuration),
        ]

    def validate(self, copy: int, extra: str | None, configuration: interface.Configuration) -> list[str]:
        """Return the arguments of a run that only validates the configuration."""
        return [*self._common(copy, extra, configuration), "--mode", "validate"]

    def rehearse(self, copy: int, extra: str | None, configuration: interface.Configuration) -> list[str]:
        """Return the arguments of a run that starts, binds its listening sockets without listening, and exits."""
        return [*self._common(copy, extra, configuration), "--mode", "init_only", "--disable-hot-restart"]

    def _common(self, copy: int, extra: str | None, configuration: interface.Configuration) -> list[str]:
        assert isinstance(configuration, Configuration), "this class has parsed it"
        node_id, node_cluster = configuration.node
        arguments = ["-c", f"/dev/fd/{copy}", *self.flags.rest]
        if not self.flags.has_log_level:
            arguments += ["--log-level", _LOG_LEVEL]
        if extra is not None:
            arguments += ["--config-yaml", extra]
        # These override the file's node, so they are passed only if it has none; the gate's xDS needs both.
        if self.flags.service_node is not None or node_id is None:
            arguments += ["--service-node", self.flags.service_node or "agent"]
        if self.flags.service_cluster is not None or node_cluster is None:
            arguments += ["--service-cluster", self.flags.service_cluster or "agent"]
        return arguments

    def _log_format(self, number: int, configuration: interface.Configuration) -> list[str]:
        assert isinstance(configuration, Configuration), "this class has parsed it"
        if configuration.has_log_format:
            return []  # the format in the copy names the epoch; Envoy rejects the flag beside it
        if self.logs_json and self.flags.log_format is None:
            return ["--log-format", _JSON_LOG_FORMAT.replace("<epoch>", str(number))]
        return ["--log-format", f"[epoch {number}] {self.flags.log_format or DEFAULT_LOG_FORMAT}"]


def last_line(output: str) -> str:
    """Return the last line of an output that is not empty."""
    return next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")


def readable(text: str, descriptors: Mapping[int, str]) -> str:
    """Return a message of Envoy as one line, with paths instead of descriptors."""
    # Envoy may quote the rejected document, which may contain secrets.
    text = _DEBUG.sub("", _DOCUMENT.sub("", text))
    text = _DESCRIPTOR.sub(lambda match: descriptors.get(int(match[1]), match[0]), text)
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"


def _last_complaint(output: str) -> str:
    """Return the last critical or error message with its further lines; if none, the last line."""
    found = ""
    for line in output.splitlines():
        match = _PREFIX.match(line)
        if match is not None and match["level"] in {"critical", "error"}:
            found = match["text"]
        elif match is None and found:
            found += f"\n{line}"
    if found:
        return found
    return next((line for line in reversed(output.splitlines()) if line.strip()), "it printed no message")
