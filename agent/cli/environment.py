"""Variables named `AGENT_…` that set no option: a misspelled one, or one of Kubernetes' service links.

For a Service named agent-status, a kubelet sets AGENT_STATUS_PORT=tcp://10.0.0.1:80 in each pod of the namespace,
unless the pod has `enableServiceLinks: false`.
"""

import re
from collections.abc import Mapping, MutableMapping
from difflib import get_close_matches

import click

SERVICE_LINKS = "agent.service_links"
"""The key of the messages about service links in a click context's `meta`."""

_PREFIX = "AGENT_"
_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://\S+:\d+")
_LINK = re.compile(r"\w+_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)")
_INTERNAL = frozenset({"AGENT_TRIAL", "AGENT_INHERITANCE", "AGENT_INVOCATION"})  # from an agent to what it executes


def drop_service_links(environment: MutableMapping[str, str], command: click.Command) -> list[str]:
    """Remove the variables of options that have a service's address; return a message for each."""
    links = sorted(name for name in _options(command) if _ADDRESS.fullmatch(environment.get(name, "")))
    return [_service(name, environment.pop(name)) for name in links]


def unknown(environment: Mapping[str, str], command: click.Command) -> list[str]:
    """Return a message for each variable with the prefix that sets no option of the command."""
    options = _options(command)
    others = sorted(name for name in environment if name.startswith(_PREFIX) and name not in options | _INTERNAL)
    return [_unknown(name, options) for name in others if not _is_link(name, environment[name])]


def _options(command: click.Command) -> set[str]:
    return {str(parameter.envvar) for parameter in command.params if parameter.envvar}


def _is_link(name: str, value: str) -> bool:
    return bool(_LINK.fullmatch(name) or _ADDRESS.fullmatch(value))


def _service(name: str, value: str) -> str:
    return f"{name}={value} is the address of a Kubernetes service: set enableServiceLinks: false in the pod"


def _unknown(name: str, options: set[str]) -> str:
    similar = get_close_matches(name.removeprefix(_PREFIX), [each.removeprefix(_PREFIX) for each in options], 1)
    step = f"did you mean {_PREFIX}{similar[0]}?" if similar else "see agent --help for the names"
    return f"{name} sets no option; {step}"
