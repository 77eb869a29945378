"""`pilot-agent …`, or `agent proxy …`: the command line of Istio's agent, with the agent behind it.

Chosen by the name of the program: a symlink `pilot-agent` to `agent`.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from agent.control_client import pilot_commands
from agent.core.errors import AgentError, UsageError

if TYPE_CHECKING:
    from agent.cli.start import Invocation

COMMANDS = ("proxy", "request", "wait", "version", "istio-iptables", "istio-clean-iptables")

_HELP = """\
Usage: pilot-agent COMMAND [FLAGS]

  The command line of Istio's pilot-agent; agent --help shows the agent's own.

Commands:
  proxy [sidecar|router]     Run the agent with a proxy, as flags, environment and the pod's files say.
  request METHOD PATH [BODY] Send a request to the proxy's or the agent's port (--debug-port) and print the answer.
  wait                       Wait until the proxy is ready.
  version [-s] [-o FORMAT]   Print the version; FORMAT is yaml or json.
  istio-iptables             Send the pod's connections through the proxy.
  istio-clean-iptables       Undo that.
"""


def main(arguments: Sequence[str]) -> NoReturn:
    """Run a command of pilot-agent and exit with its code: 255 for an invalid command line."""
    try:
        code = _run(arguments)
    except AgentError as error:
        sys.stderr.write(f"pilot-agent: {error}\n")
        code = pilot_commands.FAILED
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    name = arguments[0] if arguments else ""
    rest = arguments[1:]
    if name in {"request", "wait"}:
        return pilot_commands.run(name, rest)
    if name == "version":
        return _version(rest)
    if name in {"istio-iptables", "istio-clean-iptables"}:
        from agent.cli.intercept import main as intercept

        return intercept(name, rest)
    if name in {"help", "-h", "--help"}:
        sys.stdout.write(_HELP)
        return 0
    return proxy(_without_name(arguments))


def _without_name(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of `proxy`; flags may stand before its name. Raises `UsageError` for another command."""
    from agent.istio import go_flags, proxy_flags

    line = go_flags.parse(arguments, proxy_flags.FLAGS)
    if not line.arguments or line.arguments[0] != "proxy":
        given = f"there is no command {line.arguments[0]!r}" if line.arguments else "the command is missing"
        message = f"cannot run: {given}; the commands are {', '.join(COMMANDS)}"
        raise UsageError(message)
    words = list(arguments)
    words.remove("proxy")
    return words


def proxy(words: Sequence[str]) -> int:
    """Run the agent as the flags, the environment and the files of the pod say. Raises `UsageError`."""
    if any(word in {"-h", "--help"} for word in words):
        sys.stdout.write(_HELP)
        return 0
    from agent.cli import start
    from agent.host.limits import keep_standard_streams

    invocation = translated(words)
    keep_standard_streams()
    return start.execute(invocation)


def translated(words: Sequence[str]) -> "Invocation":
    """Return the agent's own invocation for the arguments of `proxy`. Raises `UsageError`."""
    from agent.cli import environment
    from agent.cli.run import agent
    from agent.cli.start import Invocation
    from agent.host.pod_machine import machine
    from agent.istio import proxy_command

    translation = proxy_command.translate(words, os.environ, machine())
    context = agent.make_context("pilot-agent", list(translation.options))
    options: dict[str, Any] = dict(context.params)
    if translation.document is not None:
        options |= {"document": proxy_command.as_json(translation.document), "pilot_words": tuple(words)}
    arguments, unused = tuple(translation.arguments), tuple(translation.notes)
    ignored = (*context.meta.get(environment.SERVICE_LINKS, ()), *environment.unknown(os.environ, agent))
    return Invocation(options, arguments, ignored, unused, pilot_commands.FAILED)


def _version(arguments: Sequence[str]) -> int:
    """Print the version as istioctl reads it. Raises `UsageError`."""
    import json

    import yaml

    from agent import __version__
    from agent.istio.go_flags import Kind, parse

    line = parse(arguments, {"short": Kind.BOOLEAN, "output": Kind.TEXT}, {"s": "short", "o": "output"})
    output = line.values.get("output", "")
    document = {"clientVersion": _described(__version__)}
    if output == "json":
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    elif output == "yaml":
        sys.stdout.write(yaml.safe_dump(document, sort_keys=False))
    elif output:
        message = f"cannot print the version as {output!r}: --output is yaml or json"
        raise UsageError(message)
    else:
        sys.stdout.write(f"client version: {__version__}\n")
    return 0


def _described(version: str) -> Mapping[str, str]:
    """Return the fields that istioctl expects; the language is not Go's."""
    language = f"python{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    return {"version": version, "revision": version, "golang_version": language, "status": "Clean", "tag": version}
