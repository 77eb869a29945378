"""NGINX as a kind of proxy: its command line and its error messages; delegates the rest."""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.certificates.references import Reference
from agent.core.errors import BadInput, UsageError
from agent.proxies import interface
from agent.proxies.interface import Complaint
from agent.proxies.link import EpochContext, LinkEvents
from agent.proxies.nginx.configuration import Configuration
from agent.proxies.nginx.default_configuration import default_configuration
from agent.proxies.nginx.link import NginxLink
from agent.proxies.standalone import NoForwarder, NoOverride

_VERSION = re.compile(r"nginx version: (\S+?/((\d+)\.(\d+)[^\s]*))")
_OLDEST = (1, 20)  # the first with -e
_COMPLAINT = re.compile(
    r"^(?:nginx: |[\d/]+ [\d:]+ )\[(?:emerg|alert|crit)\] (?:\d+#\d+: )?(?P<text>.*)$", re.MULTILINE
)
_PLACE = re.compile(r" in /dev/fd/\d+:(\d+)")
_DESCRIPTOR = re.compile(r"/dev/fd/(\d+)")
_LONGEST = 500
_TAKEN = frozenset({"-c", "-g", "-s", "-t", "-T", "-v", "-V", "-q", "-e"})


@dataclass(frozen=True, slots=True)
class Nginx(NoOverride):
    """NGINX with the operator's own arguments."""

    arguments: tuple[str, ...] = ()
    version_probe: tuple[str, ...] = ("-V",)
    handoff_probe: tuple[str, ...] | None = None
    is_multi_user: bool = True  # a worker opens certificates whose names have variables
    reserved_descriptors: int = 0
    needs_certificates: bool = True

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "Nginx":
        """Return the kind with these arguments. Raises `UsageError` for one that the agent itself passes."""
        for each in arguments:
            if each[:2] in _TAKEN:
                message = f"cannot pass {each[:2]} to nginx: the agent decides it; leave it out"
                raise UsageError(message)
        return cls(tuple(arguments))

    @property
    def identity(self) -> bytes:
        """The operator's arguments as bytes: different ones make a different revision."""
        return repr(("nginx", self.arguments)).encode()

    @property
    def push_form(self) -> bytes:
        """Constant: nothing is pushed."""
        return b""

    def version(self, output: str) -> tuple[str, bool]:
        """Parse the output of `-V`. Raises `BadInput` for a program that the agent cannot use."""
        found = _VERSION.search(output)
        if found is None:
            message = "it does not tell a version of NGINX"
            raise BadInput(message)
        if (int(found[3]), int(found[4])) < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            message = f"it is {found[1]}, and the agent needs {oldest} or newer, which has -e"
            raise BadInput(message)
        if "--with-http_stub_status_module" not in output:
            message = f"it is {found[1]} without http_stub_status_module, by which the agent sees that it serves"
            raise BadInput(message)
        return found[1], False

    def configuration(
        self, text: str, name: str, extra: str | None = None, resources: Mapping[str, bytes] | None = None
    ) -> Configuration:
        """Parse a configuration. Raises `BadInput` naming the file, the line and the next step."""
        del extra
        return Configuration(text, name, os.getcwd(), resources or {})  # noqa: PTH109

    def default_configuration(
        self,
        listen: tuple[str, int],
        forward: tuple[str, int],
        references: Iterable[Reference],
        names: Mapping[str, Collection[str]],
    ) -> str:
        """Return a configuration that serves these certificates at one address for one service."""
        return default_configuration(listen, forward, references, names)

    def validate(self, copy: int, extra: str | None, configuration: interface.Configuration) -> list[str]:
        """Return the arguments of a run that only validates a configuration; it loads the certificates."""
        del extra, configuration
        return ["-t", "-q", "-c", f"/dev/fd/{copy}", "-e", "stderr", "-g", "pid /dev/null;", *self.arguments]

    def rehearse(self, copy: int, extra: str | None, configuration: interface.Configuration) -> list[str]:
        """Return those of `validate`: NGINX cannot bind without serving."""
        return self.validate(copy, extra, configuration)

    def complaint(
        self, output: str, descriptors: Mapping[int, str], configuration: interface.Configuration | None = None
    ) -> Complaint:
        """Find the complaint in NGINX's output: the first emergency."""
        said = [each for each in _COMPLAINT.findall(output) if "could not open error log file" not in each]
        lines = [line for line in output.splitlines() if line.strip()]
        text = said[0] if said else (lines[-1] if lines else "it printed no message")
        if isinstance(configuration, Configuration):
            text = _PLACE.sub(lambda found: f" in {configuration.located(int(found[1]))}", text)
        return self.rejection(text, descriptors)

    def rejection(self, message: str, descriptors: Mapping[int, str]) -> Complaint:
        """Parse a message in which descriptors replace the paths of files."""
        named = [descriptors.get(int(number)) for number in _DESCRIPTOR.findall(message)]
        readable = _DESCRIPTOR.sub(lambda found: descriptors.get(int(found[1]), found[0]), message)
        words = " ".join(readable.split())
        paths = frozenset(path for path in named if path is not None)
        return Complaint(words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…", paths)

    def link(self, context: EpochContext, events: LinkEvents) -> NginxLink:
        """Return the link to an epoch of this kind."""
        return NginxLink(context, events, self.arguments)

    def forwarder(self, allowed: Sequence[object]) -> NoForwarder:
        """Return what answers that NGINX has no admin interface."""
        del allowed
        return NoForwarder("NGINX has no admin interface")
