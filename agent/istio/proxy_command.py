"""Translates `pilot-agent proxy`, with its environment and files, into the agent's own options.

Source of flags, variables and defaults: Istio 1.3.3 and 1.31, pilot/cmd/pilot-agent and pkg/bootstrap.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from agent.core.errors import UsageError
from agent.istio import bootstrap, fields, go_durations, go_flags, log_levels, planning, proxy_flags, templates
from agent.istio.bootstrap import Plan, Ports
from agent.istio.discovery import ControlPlane, Files
from agent.istio.given import Given, Machine

ROLES = ("sidecar", "router")

_BINARY = "/usr/local/bin/envoy"
_DRAIN_TIME = 45.0  # seconds
_STOP_DEADLINE = 25.0  # seconds: within a pod's usual grace period of 30 s
_SHORTEST = 0.001  # seconds, for a deadline of none at all
_MINIMUM_DRAIN = 5.0  # seconds
_ISSUED = ("PILOT_CERT_PROVIDER", "CA_ADDR", "CA_PROVIDER", "PROV_CERT", "SDS_UDS_PATH")
_ANNOTATIONS = ("statsHistogramBuckets", "statsFlushInterval", "statsEvictionInterval", "statsCompression")
_OWN_PORTS = frozenset({15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15090})


@dataclass(slots=True)
class Translation:
    """The agent's options and the proxy's arguments, a bootstrap if the agent makes it, and messages for the log."""

    options: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    document: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


def translate(words: Sequence[str], environment: Mapping[str, str], machine: Machine) -> Translation:
    """Translate the arguments of `proxy`. Raises `UsageError` naming the flag, variable or file."""
    line = go_flags.parse(words, proxy_flags.FLAGS)
    role = _role(line.arguments)
    given = Given(line, environment, machine)
    plane, ports = planning.control_plane(given), planning.ports(given)
    plan = planning.plan(given, role, plane, ports)
    made = Translation(notes=given.notes)
    made.options += [*_program(given), *_certificates(given, plane)]
    _configure(given, plan, made)
    made.options += [*_timing(given), *_direction(role), *_status(given, ports), *_logging(given)]
    made.arguments += _arguments(given)
    made.notes += _not_served(given)
    return made


def as_json(document: Mapping[str, Any]) -> str:
    """Return a bootstrap as text."""
    return json.dumps(document, indent=1)


def _role(arguments: Sequence[str]) -> str:
    role = arguments[0] if arguments else ROLES[0]
    if role not in ROLES or len(arguments) > 1:
        other = role if role not in ROLES else arguments[1]
        message = f"cannot run as {other!r}: the role is one of {' and '.join(ROLES)}"
        raise UsageError(message)
    return role


# The program and its files


def _program(given: Given) -> Iterator[str]:
    path = given.text("binaryPath") or given.config.binary_path or _BINARY
    if "/" in path and not given.machine.exists(path):
        given.notes.append(f"there is no {path}: the proxy is envoy from PATH")
        path = "envoy"
    yield from ("--proxy-bin", path)


def _certificates(given: Given, plane: ControlPlane) -> Iterator[str]:
    """Yield the directories of the files that the environment names; without TLS, only if they exist."""
    paths = [path for side in ("SERVER", "CLIENT") for path in Files.named(given.environment, side).all]
    if plane.files is None:
        paths = [path for path in paths if given.machine.exists(path)]
    for directory in dict.fromkeys(str(PurePath(path).parent) for path in paths):
        yield from ("--certs", directory)


def _configure(given: Given, plan: Plan, made: Translation) -> None:
    """Choose the configuration: ISTIO_BOOTSTRAP, a custom file, a template, or the bootstrap that is built here."""
    override = given.environment.get("ISTIO_BOOTSTRAP_OVERRIDE")
    if override:
        made.options += ("--config-override", override)
    template = given.environment.get("ISTIO_BOOTSTRAP")
    custom = given.text("customConfigFile") or given.config.custom_config_file
    if custom and not template:
        made.options += ("--config", custom)
        made.arguments += ("--service-node", plan.node.id, "--service-cluster", plan.node.cluster)
        return
    template = template or given.text("templateFile") or given.config.template_path
    made.document = _filled(given, template, plan) if template else bootstrap.document(plan)


def _filled(given: Given, path: str, plan: Plan) -> dict[str, Any]:
    text = given.machine.read(path)
    if text is None:
        message = f"cannot read the bootstrap template {path}: there is no such file"
        raise UsageError(message)
    return templates.filled(text, path, templates.values(plan))


# Time


def _timing(given: Given) -> Iterator[str]:
    drain = given.seconds("drainDuration", given.config.drain_duration)
    shutdown = given.seconds("parentShutdownDuration")
    if drain is not None:
        if not drain:
            message = "cannot use --drainDuration: it is not a positive duration"
            raise UsageError(message)
        yield from ("--drain-time", go_durations.text(drain))
    if shutdown is not None:
        if shutdown <= (_DRAIN_TIME if drain is None else drain):
            message = "cannot use --parentShutdownDuration: it is not longer than --drainDuration"
            raise UsageError(message)
        yield from ("--drain-deadline", go_durations.text(shutdown))
    yield from ("--stop-deadline", go_durations.text(max(_stop_deadline(given), _SHORTEST)))
    if given.is_true("EXIT_ON_ZERO_ACTIVE_CONNECTIONS"):
        least = given.variable_seconds("MINIMUM_DRAIN_DURATION", _MINIMUM_DRAIN)
        yield from ("--min-drain", go_durations.text(least))


def _stop_deadline(given: Given) -> float:
    text = given.environment.get("TERMINATION_DRAIN_DURATION_SECONDS", "")
    if text.isascii() and text.isdigit():
        return float(text)
    if text:
        given.notes.append("TERMINATION_DRAIN_DURATION_SECONDS is ignored: it is not a number of seconds")
    duration = given.config.termination_drain_duration
    return _STOP_DEADLINE if duration is None else duration


def _direction(role: str) -> tuple[str, ...]:
    return ("--drain-direction", "inbound") if role == "sidecar" else ()


# Status and logs


def _status(given: Given, ports: Ports) -> Iterator[str]:
    yield from ("--status-port", str(ports.status), "--http-actions")
    probers = given.environment.get("ISTIO_KUBE_APP_PROBERS")
    if probers:
        yield from ("--app-probers", probers)
        if not given.is_true("REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION") and given.pod.address_texts:
            yield from ("--app-address", given.pod.address_texts[0])
    metrics = _application_metrics(given)
    if metrics is not None:
        yield from ("--app-metrics", metrics)


def _application_metrics(given: Given) -> str | None:
    """Return the URL of the application's metrics; None if there are none, or if they would be the agent's own."""
    name = "ISTIO_PROMETHEUS_ANNOTATIONS"
    text = given.environment.get(name)
    if not text:
        return None
    annotated = fields.Fields(fields.loaded(text, name), name)
    if annotated.text("scrape") != "true":
        return None
    if "targets" in annotated.keys:
        given.notes.append(f"the targets of {name} are left out: the metrics of one port are added")
    port = annotated.port("port") or 80
    if port in _OWN_PORTS:
        given.notes.append(f"{name} is ignored: port {port} is the proxy's own, as after a second injection")
        return None
    path = annotated.text("path") or "/metrics"
    return f"http://localhost:{port}/{path.removeprefix('/')}"


def _logging(given: Given) -> Iterator[str]:
    level = log_levels.agent_level(given.text("log_output_level"))
    if level:
        yield from ("--log-level", level)
    if given.is_set("log_as_json"):
        yield from ("--log-format", "json")


def _arguments(given: Given) -> Iterator[str]:
    """Yield the proxy's own arguments."""
    level, components = log_levels.proxy_levels(given.text("proxyLogLevel"), given.text("proxyComponentLogLevel"))
    yield from ("-l", level)
    if components:
        yield from ("--component-log-level", components)
    workers = given.number("concurrency", given.config.concurrency, 0) or given.pod.cpu_limit or 0
    if workers > 0:
        yield from ("--concurrency", str(workers))


def _not_served(given: Given) -> Iterator[str]:
    """Yield a message for each thing that is asked for and not done."""
    issued = [name for name in _ISSUED if given.environment.get(name)]
    if issued:
        yield (
            f"certificates are read from files only: {', '.join(issued)} asks for ones that are signed on request or"
            " served by SDS, and the agent does neither"
        )
    names = [f"sidecar.istio.io/{name}" for name in _ANNOTATIONS if given.listed(name)]
    if names:
        yield f"no effect here: the annotations {', '.join(names)}; set the values in ISTIO_BOOTSTRAP_OVERRIDE"
    if given.config.ignored:
        yield f"no effect here: {', '.join(given.config.ignored)} of ProxyConfig"
