"""HAProxy as a kind of proxy: its command line and its error messages; delegates the rest."""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.certificates.references import Reference
from agent.core.errors import BadInput, UsageError
from agent.proxies import interface
from agent.proxies.haproxy.configuration import Configuration
from agent.proxies.haproxy.default_configuration import default_configuration
from agent.proxies.haproxy.link import HAProxyLink
from agent.proxies.interface import Complaint
from agent.proxies.link import EpochContext, LinkEvents
from agent.proxies.standalone import NoForwarder, NoOverride

_VERSION = re.compile(r"HAProxy version ((\d+)\.(\d+)\S*)")
_OLDEST = (2, 4)  # the first with .if feature() and with named defaults
_COMPLAINT = re.compile(r"^\[(?:ALERT|EMERG)\]\s*\(\d+\) : (?P<text>.*)$", re.MULTILINE)
_SUMMARY = re.compile(r"^(?:config : )?(?:Error\(s\) found in configuration file|Fatal errors found in configuration)")
_OWN = re.compile(r"/dev/fd/\d+|/\S*/files-[0-9a-f]{16}/[^\s'\":,]*[^\s'\":,.!]")
_DESCRIPTOR = re.compile(r"/dev/fd/(\d+)")
_LONGEST = 500
_TAKEN = frozenset({"-f", "-D", "-W", "-Ws", "-db", "-x", "-sf", "-st", "-p", "-c", "-v", "-vv", "-S", "-C", "-q"})


@dataclass(frozen=True, slots=True)
class HAProxy(NoOverride):
    """HAProxy with the operator's own arguments. `pushes`: certificates are pushed where that is possible."""

    arguments: tuple[str, ...] = ()
    pushes: bool = False
    version_probe: tuple[str, ...] = ("-v",)
    handoff_probe: tuple[str, ...] | None = None
    is_multi_user: bool = False
    reserved_descriptors: int = 0
    needs_certificates: bool = True

    @classmethod
    def parse(cls, arguments: Sequence[str], *, pushes: bool) -> "HAProxy":
        """Return the kind with these arguments. Raises `UsageError` for one that the agent itself passes."""
        for each in arguments:
            if each in _TAKEN:
                message = f"cannot pass {each} to haproxy: the agent decides it; leave it out"
                raise UsageError(message)
        return cls(tuple(arguments), pushes)

    @property
    def identity(self) -> bytes:
        """The operator's arguments as bytes: different ones make a different revision."""
        return repr(("haproxy", self.arguments)).encode()

    @property
    def push_form(self) -> bytes:
        """Constant: any epoch takes any push."""
        return b"haproxy"

    def version(self, output: str) -> tuple[str, bool]:
        """Parse the output of `-v`. Raises `BadInput` for a version that the agent cannot use."""
        found = _VERSION.search(output)
        if found is None:
            message = "it does not tell a version of HAProxy"
            raise BadInput(message)
        if (int(found[2]), int(found[3])) < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            message = f"it is HAProxy {found[1]}, and the agent needs {oldest} or newer"
            raise BadInput(message)
        return f"HAProxy {found[1]}", False

    def configuration(
        self, text: str, name: str, extra: str | None = None, resources: Mapping[str, bytes] | None = None
    ) -> Configuration:
        """Parse a configuration. Raises `BadInput` naming the file, the line and the next step."""
        del extra
        return Configuration(text, name, os.getcwd(), os.environ, resources or {}, pushes=self.pushes)  # noqa: PTH109

    def default_configuration(
        self,
        listen: tuple[str, int],
        forward: tuple[str, int],
        references: Iterable[Reference],
        names: Mapping[str, Collection[str]],
    ) -> str:
        """Return a configuration that serves these certificates at one address for one service."""
        del names  # it finds them itself
        return default_configuration(listen, forward, references)

    def validate(self, copy: int, extra: str | None, configuration: interface.Configuration) -> list[str]:
        """Return the arguments of a run that only validates a configuration; it loads the certificates."""
        del extra, configuration
        return ["-c", "-f", f"/dev/fd/{copy}", *self.arguments]

    def rehearse(self, copy: int, extra: str | None, configuration: interface.Configuration) -> list[str]:
        """Return those of `validate`: HAProxy cannot bind without serving."""
        return self.validate(copy, extra, configuration)

    def complaint(
        self, output: str, descriptors: Mapping[int, str], configuration: interface.Configuration | None = None
    ) -> Complaint:
        """Find the complaint in HAProxy's output: its first alerts."""
        del configuration
        said = [each.removeprefix("config : ") for each in _COMPLAINT.findall(output) if not _SUMMARY.match(each)]
        lines = [line for line in output.splitlines() if line.strip()]
        text = "; ".join(said[:2]) or (lines[-1] if lines else "it printed no message")
        return self.rejection(text, descriptors)

    def rejection(self, message: str, descriptors: Mapping[int, str]) -> Complaint:
        """Parse a message in which the paths of an epoch's files replace the operator's."""
        paths = {path for used in _OWN.findall(message) if (path := _original(used, descriptors)) is not None}
        readable = _OWN.sub(lambda found: _original(found[0], descriptors) or found[0], message)
        words = " ".join(readable.split())
        return Complaint(words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…", frozenset(paths))

    def link(self, context: EpochContext, events: LinkEvents) -> HAProxyLink:
        """Return the link to an epoch of this kind."""
        return HAProxyLink(context, events, self.arguments)

    def forwarder(self, allowed: Sequence[object]) -> NoForwarder:
        """Return what answers that HAProxy's console speaks no HTTP."""
        del allowed
        return NoForwarder("HAProxy has no admin interface over HTTP; use a stats socket of your own")


def _original(used: str, descriptors: Mapping[int, str]) -> str | None:
    """Return the operator's path of a file of an epoch."""
    found = _DESCRIPTOR.fullmatch(used)
    if found is not None:
        return descriptors.get(int(found[1]))
    name = used.rpartition("/")[2]
    return next((path for path in descriptors.values() if path.rpartition("/")[2] == name), None)
