"""Envoy on the command line: how an epoch is launched, how a configuration is validated, what a complaint means."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from agent.handoff.socket_paths import SocketPaths
from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.options import Flags

DEFAULT_LOG_FORMAT = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v"  # Envoy's own, docs: operations/cli
VERSION_PROBE = ("--version",)
HANDOFF_PROBE = ("--hot-restart-version",)
UDP_OVERLAP = 4  # seconds in which a draining epoch forwards datagrams to the next one; see README, Limits

_PREFIX = re.compile(r"^\[[^]]*]\[\d+]\[(?P<level>\w+)]\[\w+] (?:\[[^]]*] )?(?P<text>.*)$")
_COMPLAINT = re.compile(r"error initializing config(?:uration)? '[^']*': |^exception.*?: ", re.IGNORECASE)
_DOCUMENT = re.compile(r"\{.*\}", re.DOTALL)
_DEBUG = re.compile(r"goo\.gle/debug\w*[\s\w]*:\s*")  # how protobuf marks a repeated document
_DESCRIPTOR = re.compile(r"/dev/fd/(\d+)")
_LONGEST = 500  # letters of a complaint that are told


@dataclass(frozen=True, slots=True)
class Envoy:
    """Envoy, or a program that takes its flags. `drain_time` in seconds: how long clients are asked to leave."""

    flags: Flags
    drain_time: float

    def launch(
        self,
        names: SocketPaths,
        copy: int,
        extra: str | None,
        number: int,
        configuration: Configuration,
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

    def validate(self, copy: int, extra: str | None, configuration: Configuration) -> list[str]:
        """The arguments of a run that only says whether it could use the configuration."""
        return [*self._common(copy, extra, configuration), "--mode", "validate"]

    def _common(self, copy: int, extra: str | None, configuration: Configuration) -> list[str]:
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

    def _log_format(self, number: int, configuration: Configuration) -> list[str]:
        if configuration.has_log_format:
            return []  # it is in the copy, where the epoch was put in; Envoy refuses both
        return ["--log-format", f"[epoch {number}] {self.flags.log_format or DEFAULT_LOG_FORMAT}"]


@dataclass(frozen=True, slots=True)
class Complaint:
    """A proxy's complaint about a configuration, in one line, and the files that it names."""

    text: str
    paths: frozenset[str] = frozenset()

    @classmethod
    def of(cls, message: str, descriptors: Mapping[int, str]) -> Self:
        """Read a message in which `/dev/fd/N` stands for the path of a file."""
        named = (descriptors.get(int(number)) for number in _DESCRIPTOR.findall(message))
        return cls(readable(message, descriptors), frozenset(path for path in named if path is not None))


def complaint(output: str, descriptors: Mapping[int, str]) -> Complaint:
    """Find Envoy's complaint in what it wrote."""
    return Complaint.of(_COMPLAINT.sub("", _last_complaint(output).strip()), descriptors)


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
