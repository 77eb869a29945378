"""The flags of `pilot-agent proxy`, from 1.1 to 1.31: their types, and what becomes of the ignored ones."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from agent.istio.go_flags import CommandLine, Kind

TAKEN: Final[Mapping[str, Kind]] = {
    "ip": Kind.TEXT,
    "id": Kind.TEXT,
    "domain": Kind.TEXT,
    "trust-domain": Kind.TEXT,
    "pilotIdentity": Kind.TEXT,
    "serviceregistry": Kind.TEXT,
    "serviceCluster": Kind.TEXT,
    "binaryPath": Kind.TEXT,
    "configPath": Kind.TEXT,
    "drainDuration": Kind.DURATION,
    "parentShutdownDuration": Kind.DURATION,
    "discoveryAddress": Kind.TEXT,
    "controlPlaneAuthPolicy": Kind.TEXT,
    "zipkinAddress": Kind.TEXT,
    "statsdUdpAddress": Kind.TEXT,
    "proxyAdminPort": Kind.PORT,
    "connectTimeout": Kind.DURATION,
    "dnsRefreshRate": Kind.DURATION,
    "concurrency": Kind.INTEGER,
    "proxyLogLevel": Kind.TEXT,
    "proxyComponentLogLevel": Kind.TEXT,
    "templateFile": Kind.TEXT,
    "customConfigFile": Kind.TEXT,
    "statusPort": Kind.PORT,
    "log_output_level": Kind.TEXT,
    "log_as_json": Kind.BOOLEAN,
    "log_target": Kind.LIST,
    "meshConfig": Kind.TEXT,
    "outlierLogPath": Kind.TEXT,
}
"""The flags that become something of the agent's."""

_OVERRIDABLE: Final[Mapping[str, Kind]] = {
    "envoyMetricsServiceAddress": Kind.TEXT,
    "envoyAccessLogService": Kind.TEXT,
    "lightstepAddress": Kind.TEXT,
    "lightstepAccessToken": Kind.TEXT,
    "lightstepSecure": Kind.BOOLEAN,
    "lightstepCacertPath": Kind.TEXT,
    "datadogAgentAddress": Kind.TEXT,
}
"""The ignored flags for which a bootstrap override can do the same."""

_IGNORED: Final[Mapping[str, Kind]] = {
    "mixerIdentity": Kind.TEXT,
    "applicationPorts": Kind.LIST,
    "controlPlaneBootstrap": Kind.BOOLEAN,
    "stsPort": Kind.INTEGER,
    "tokenManagerPlugin": Kind.TEXT,
}

_HARMLESS: Final[Mapping[str, Kind]] = {
    "disableInternalTelemetry": Kind.BOOLEAN,
    "profiling": Kind.BOOLEAN,
    "vklog": Kind.INTEGER,
    "log_rotate": Kind.TEXT,
    "log_rotate_max_age": Kind.INTEGER,
    "log_rotate_max_size": Kind.INTEGER,
    "log_rotate_max_backups": Kind.INTEGER,
    "log_caller": Kind.TEXT,
    "log_stacktrace_level": Kind.TEXT,
}
"""Ignored and not mentioned: the agent's behaviour does not differ for it."""

FLAGS: Final[Mapping[str, Kind]] = {**TAKEN, **_OVERRIDABLE, **_IGNORED, **_HARMLESS}

# The values that ask for nothing.
_NOTHING: Final[Mapping[str, object]] = {
    "controlPlaneBootstrap": True, "stsPort": 0, "tokenManagerPlugin": "", "serviceregistry": "Kubernetes",
}  # fmt: skip


def warnings(line: CommandLine) -> Iterator[str]:
    """Yield at most one message for each kind of flag that has no effect; none contains a value."""
    overridable = _given(line, _OVERRIDABLE)
    if overridable:
        yield f"no effect here: {overridable}; a file in ISTIO_BOOTSTRAP_OVERRIDE can configure the same"
    ignored = _given(line, [*_IGNORED, "serviceregistry"])
    if ignored:
        yield f"no effect here: {ignored}"
    targets = line.values.get("log_target", ())
    assert isinstance(targets, tuple), "its kind is a list"
    if set(targets) - {"stdout", "stderr"}:
        yield "no effect here: --log_target; the agent logs to standard error only"
    for name, taken in line.unknown:
        yield f"the unknown flag {name} is ignored{_swallowed(name, taken)}"


def _swallowed(name: str, taken: str | None) -> str:
    if taken is None:
        return ""
    value = "the argument after it" if re.search("token|secret", name, re.IGNORECASE) else repr(taken)
    return f", and {value} as its value, as pilot-agent does; write {name}=VALUE"


def _given(line: CommandLine, names: "Mapping[str, Kind] | list[str]") -> str:
    values = line.values
    given = [name for name in names if name in values and values[name] != _NOTHING.get(name)]
    return ", ".join(f"--{name}" for name in given)
