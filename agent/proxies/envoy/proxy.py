"""Envoy as a kind of proxy: its command line, what its complaints mean, and the parts that make up the rest."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from yaml.nodes import Node

from agent.certificates.references import Reference
from agent.handoff.socket_paths import SocketPaths
from agent.proxies import interface
from agent.proxies.envoy import subscriptions
from agent.proxies.envoy.admin_client import AdminClient
from agent.proxies.envoy.admin_forwarder import Forwarder
from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.default_bootstrap import bootstrap
from agent.proxies.envoy.options import Flags
from agent.proxies.interface import Complaint, Subscription, Subscriptions

DEFAULT_LOG_FORMAT = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v"  # Envoy's own, docs: operations/cli
UDP_OVERLAP = 4  # seconds in which a draining epoch forwards datagrams to the next one
_VERSION = re.compile(r"version: (?:\w+/)?(\d+\.[^/\s]+)")  # <commit>/<version>/<state>/<build>/<library>

_PREFIX = re.compile(r"^\[[^]]*]\[\d+]\[(?P<level>\w+)]\[\w+] (?:\[[^]]*] )?(?P<text>.*)$")
_COMPLAINT = re.compile(r"error initializing config(?:uration)? '[^']*': |^exception.*?: ", re.IGNORECASE)
_DOCUMENT = re.compile(r"\{.*\}", re.DOTALL)
_DEBUG = re.compile(r"goo\.gle/debug\w*[\s\w]*:\s*")  # how protobuf marks a repeated document
_DESCRIPTOR = re.compile(r"/dev/fd/(\d+)")
_LONGEST = 500  # letters of a complaint that are told


@dataclass(frozen=True, slots=True)
class Envoy:
    """Envoy, or a program that takes its flags. `drain_time`: seconds in which it asks its clients to reconnect."""

    flags: Flags
    drain_time: float
    version_probe: tuple[str, ...] = ("--version",)
    handoff_probe: tuple[str, ...] = ("--hot-restart-version",)
    udp_overlap: int = UDP_OVERLAP

    @property
    def identity(self) -> bytes:
        """The operator's arguments: others make another revision."""
        return repr(self.flags).encode()

    @property
    def extra_document(self) -> str | None:
        """What `--config-yaml` adds to the bootstrap."""
        return self.flags.config_yaml

    def version(self, output: str) -> tuple[str, bool]:
        """Return the version, and whether it reads JSON from a descriptor: Envoy does, any other program reads YAML."""
        number = _VERSION.search(output)
        return (output, False) if number is None else (number[1], True)

    def configuration(
        self, text: str, name: str, extra: str | None = None, resources: Mapping[str, bytes] | None = None
    ) -> Configuration:
        """Parse a bootstrap. Raises `BadInput` naming the file, the line and the next step."""
        return Configuration(text, name, extra, resources)

    def default_configuration(
        self, listen: tuple[str, int], forward: tuple[str, int], references: Iterable[Reference]
    ) -> str:
        """Return a bootstrap that serves these pairs at one address, in front of one service."""
        return bootstrap(listen, forward, references)

    def complaint(self, output: str, descriptors: Mapping[int, str]) -> Complaint:
        """Find the complaint in what it wrote."""
        return self.rejection(_COMPLAINT.sub("", _last_complaint(output).strip()), descriptors)

    def rejection(self, message: str, descriptors: Mapping[int, str]) -> Complaint:
        """Read a message in which `/dev/fd/N` stands for the path of a file."""
        named = (descriptors.get(int(number)) for number in _DESCRIPTOR.findall(message))
        return Complaint(readable(message, descriptors), frozenset(path for path in named if path is not None))

    def missing(self, found: Subscriptions, serving: Subscriptions) -> list[Subscription]:
        """Return what a candidate needs and has not applied, the refused ones first."""
        return subscriptions.missing(found, serving)

    def admin(self, path: Path) -> AdminClient:
        """Return the admin interface at a Unix socket."""
        return AdminClient(path)

    def forwarder(self, allowed: Sequence[object]) -> Forwarder:
        """Return a forwarder that keeps to `allow_paths`."""
        return Forwarder([each for each in allowed if isinstance(each, Node)])

    def launch(
        self,
        names: SocketPaths,
        copy: int,
        extra: str | None,
        number: int,
        configuration: interface.Configuration,
        overlap: int = 0,
    ) -> list[str]:
        """The arguments of one epoch. Every epoch is restart epoch 1 of a base id of its own.

        `copy` is the descriptor of its private copy: Envoy 1.36 takes no other path below /dev, nor below /proc.

        For `overlap` seconds it leaves the reading of UDP sockets that it was given to its predecessor.
        """
        return [
            *self._common(copy, extra, configuration),
            *("--restart-epoch", "1"),
            *("--base-id", str(names.base_id)),
            *("--socket-path", str(names.prefix)),
            *("--socket-mode", "600"),
            *("--drain-time-s", str(max(1, round(self.drain_time)))),
            *("--parent-shutdown-time-s", str(overlap)),
            *self._log_format(number, configuration),
        ]

    def validate(self, copy: int, extra: str | None, configuration: interface.Configuration) -> list[str]:
        """The arguments of a run that only says whether it could use the configuration."""
        return [*self._common(copy, extra, configuration), "--mode", "validate"]

    def _common(self, copy: int, extra: str | None, configuration: interface.Configuration) -> list[str]:
        assert isinstance(configuration, Configuration), "this class has parsed it"
        node_id, node_cluster = configuration.node
        arguments = ["-c", f"/dev/fd/{copy}", *self.flags.rest]
        if extra is not None:
            arguments += ["--config-yaml", extra]
        # These override the file's node, so they are given only where it has none; the gate's xDS needs both.
        if self.flags.service_node is not None or node_id is None:
            arguments += ["--service-node", self.flags.service_node or "agent"]
        if self.flags.service_cluster is not None or node_cluster is None:
            arguments += ["--service-cluster", self.flags.service_cluster or "agent"]
        return arguments

    def _log_format(self, number: int, configuration: interface.Configuration) -> list[str]:
        assert isinstance(configuration, Configuration), "this class has parsed it"
        if configuration.has_log_format:
            return []  # it is in the copy, where the epoch was put in; Envoy refuses both
        return ["--log-format", f"[epoch {number}] {self.flags.log_format or DEFAULT_LOG_FORMAT}"]


def readable(text: str, descriptors: Mapping[int, str]) -> str:
    """Put a message of Envoy into one line, with the paths that descriptors stand for."""
    # Envoy likes to repeat the document that it refuses, and there may be secrets in it.
    text = _DEBUG.sub("", _DOCUMENT.sub("", text))
    text = _DESCRIPTOR.sub(lambda match: descriptors.get(int(match[1]), match[0]), text)
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"


def _last_complaint(output: str) -> str:
    """The last serious message, with the lines that belong to it; if nothing is serious, the last line."""
    found = ""
    for line in output.splitlines():
        match = _PREFIX.match(line)
        if match is not None and match["level"] in {"critical", "error"}:
            found = match["text"]
        elif match is None and found:
            found += f"\n{line}"
    if found:
        return found
    return next((line for line in reversed(output.splitlines()) if line.strip()), "it said nothing")
