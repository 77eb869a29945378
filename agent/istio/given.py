"""The values that flags, environment, files of the pod and ProxyConfig give, read by type."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent.core.errors import UsageError
from agent.istio import go_durations, go_flags, pod_files, proxy_config, proxy_flags
from agent.istio.discovery import host_and_port
from agent.istio.go_flags import CommandLine
from agent.istio.pod import Pod

_MESH_FILE = "./etc/istio/config/mesh"


@dataclass(frozen=True, slots=True)
class Machine:
    """The questions to the machine; each may take seconds.

    `read` returns a file's text, None if there is none; `resolve` the first address of a host, None if it has none.
    `own_addresses` waits for one, if it is true that one is needed.
    """

    read: Callable[[str], str | None]
    exists: Callable[[str], bool]
    own_addresses: Callable[[bool], Sequence[str]]
    resolve: Callable[[str], str | None]


class Given:
    """The inputs of one start. `notes` collects messages about what has no effect.

    Where a flag, ProxyConfig and a default can give a value, the first of them wins. Raises `UsageError` naming the
    flag, the variable or the key.
    """

    def __init__(self, line: CommandLine, environment: Mapping[str, str], machine: Machine) -> None:
        self.environment = environment
        self.machine = machine
        self.notes = [*proxy_flags.warnings(line)]
        self.pod = Pod(environment, *(self._pod_file(name) for name in ("labels", "annotations")))
        self._values = line.values
        mesh = machine.read(self.text("meshConfig") or _MESH_FILE)
        self.config = proxy_config.read(mesh, environment.get("PROXY_CONFIG"), self.pod.annotations)

    def _pod_file(self, name: str) -> dict[str, str]:
        path = f"{pod_files.DIRECTORY}/{name}"
        pairs, bad = pod_files.parse(self.machine.read(path) or "")
        if bad:
            self.notes.append(f'{path}: line {", ".join(map(str, bad))} is left out: it is not of the form key="value"')
        return pairs

    # Flags

    def text(self, flag: str) -> str:
        """Return the text of a flag; empty if it is not given."""
        value = self._values.get(flag, "")
        assert isinstance(value, str), "its kind is a text"
        return value

    def is_set(self, flag: str) -> bool:
        """Return whether a boolean flag is given as true."""
        return self._values.get(flag) is True

    def seconds(self, flag: str, other: float | None = None) -> float | None:
        """Return the duration of a flag, or else the other one."""
        value = self._values.get(flag, other)
        assert value is None or isinstance(value, float), "its kind is a duration"
        return value

    def number(self, flag: str, other: int | None, default: int) -> int:
        """Return the number of a flag, or else the other one, or else the default."""
        value = self._values.get(flag, default if other is None else other)
        assert isinstance(value, int), "its kind is a number"
        return value

    def endpoint(self, flag: str, other: str | None) -> tuple[str, int] | None:
        """Return the host and port of a flag, or else of the other text; None without either."""
        text = self.text(flag) or other
        if not text:
            return None
        endpoint = host_and_port(text)
        if endpoint is None:
            message = f"cannot use {text!r} of --{flag} or ProxyConfig: it is not of the form host:port"
            raise UsageError(message)
        return endpoint

    # Variables

    def variable_port(self, name: str, default: int) -> int:
        """Return the port in a variable, or else the default."""
        try:
            return go_flags.port(self.environment.get(name) or str(default))
        except ValueError as error:
            message = f"cannot use the variable {name}: {error}"
            raise UsageError(message) from None

    def variable_seconds(self, name: str, default: float) -> float:
        """Return the duration in a variable, or else the default; one that is none is noted."""
        try:
            return go_durations.seconds(self.environment.get(name) or go_durations.text(default))
        except ValueError as error:
            self.notes.append(f"{name} is ignored: {error}")
            return default

    def is_true(self, name: str) -> bool:
        """Return whether a variable is true; a value that is no boolean is noted."""
        try:
            return go_flags.boolean(self.environment.get(name) or "false")
        except ValueError as error:
            self.notes.append(f"{name} is ignored: {error}")
            return False

    def listed(self, annotation: str) -> tuple[str, ...]:
        """Return the comma-separated texts of an annotation of the sidecar."""
        text = self.pod.annotations.get(f"sidecar.istio.io/{annotation}", "")
        return tuple(each.strip() for each in text.split(",") if each.strip())
