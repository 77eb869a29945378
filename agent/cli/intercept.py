"""`agent intercept`: send a pod's connections through its proxy, by iptables or nftables.

`istio-iptables` and `istio-clean-iptables` are the same with Istio's flags and defaults.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from agent.core.errors import AgentError, MachineError, UsageError
from agent.interception.operation import BACKENDS, NFTABLES
from agent.interception.switches import FLAGS, IGNORED, REFUSED, Flag, defaults

_FAILED, _UNPROVEN = 1, 126  # the repair controller of a CNI plugin looks for the latter
_POD_PORTS = (15090, 15021, 15020)  # of the proxy and the agent, for scrapers and the kubelet
_ISTIO_NAMES = {name: flag.name for flag in FLAGS for name in flag.names}
_EPILOG = """\
Examples:

\b
  agent intercept                                        all TCP connections, in and out
  agent intercept --inbound-ports 8080 --service-cidr ''  one port, inbound only
  agent intercept --dry-run                              show the rules
  agent intercept --cleanup-only                         remove them

Exit codes: 0 applied, or unchanged; 1 failed, with everything as before; 2 usage; 126 --run-validation failed.
"""


def main(name: str, arguments: Sequence[str]) -> int:
    """Run `istio-iptables` or `istio-clean-iptables`; print an error to standard error, and return the exit code."""
    try:
        return _by_istio(name, arguments)
    except AgentError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return _FAILED


def _by_istio(name: str, arguments: Sequence[str]) -> int:
    from agent.istio.go_flags import Kind, parse

    switches = [flag.name for flag in FLAGS if flag.default is None]
    kinds = {each: Kind.BOOLEAN if flag.default is None else Kind.TEXT for flag in FLAGS for each in flag.names}
    kinds |= dict.fromkeys((*IGNORED, *REFUSED, "native-nftables"), Kind.BOOLEAN) | {"force-iptables-binary": Kind.TEXT}
    line = parse(arguments, kinds, {flag.short: flag.name for flag in FLAGS if flag.short})
    given = {_ISTIO_NAMES.get(each, each): value for each, value in line.values.items()}
    refused = [each for each in REFUSED if given.get(each)]
    if refused:
        message = f"cannot use --{refused[0]}: a CNI plugin applies its rules itself"
        raise UsageError(message)
    for flag, _ in line.unknown:
        sys.stderr.write(f"{name}: the unknown flag {flag} is ignored\n")
    backend = NFTABLES if given.get("native-nftables") else str(given.get("force-iptables-binary") or "auto")
    if backend not in BACKENDS:
        message = f"cannot use --force-iptables-binary {backend}: it is neither nft nor legacy"
        raise UsageError(message)
    texts = {
        **defaults(os.environ, plain=True),
        **{each: str(text) for each, text in given.items() if each not in switches},
    }
    chosen = {each: bool(given.get(each, _is_on(each))) for each in switches}
    if name == "istio-clean-iptables":
        chosen["cleanup-only"] = True
    return _perform(texts, chosen, backend)


def _is_on(switch: str) -> bool:
    return os.environ.get(switch.upper().replace("-", "_"), "").lower() in {"true", "1", "t"}


def _option(flag: Flag) -> Any:  # noqa: ANN401  # a decorator of click's
    names = [f"--{flag.name}", *([f"-{flag.short}"] if flag.short else [])]
    if flag.default is None:
        return click.option(*names, is_flag=True, envvar=flag.variable, help=flag.help)
    return click.option(
        *names, default=flag.default, envvar=flag.variable, show_default=True, metavar="TEXT", help=flag.help
    )


def _with_flags(command: Any) -> Any:  # noqa: ANN401  # a function, as click decorates it
    for flag in reversed(FLAGS):
        command = _option(flag)(command)
    return command


@click.command(epilog=_EPILOG)
@_with_flags
@click.option(
    "--backend", type=click.Choice(BACKENDS), default="auto", show_default=True,
    help="iptables-nft, iptables-legacy, or nftables itself; auto takes the iptables whose rules are in use, or"
    " nftables where there is only nft.",
)  # fmt: skip
def intercept(backend: str, **given: Any) -> int:  # noqa: ANN401  # click's values
    """Send the connections of a pod or a machine through its proxy.

    Rules of the kernel's packet filter lead outbound connections to the proxy's port 15001 and inbound ones to 15006;
    those of the proxy itself, by its user, go their way. Both IPv4 and IPv6. Applying again changes nothing.
    """
    by_name = {name.replace("_", "-"): value for name, value in given.items()}
    texts = {name: value for name, value in by_name.items() if isinstance(value, str)}
    return _perform(texts, {name: value for name, value in by_name.items() if isinstance(value, bool)}, backend)


def _perform(texts: Mapping[str, str], switches: Mapping[str, bool], backend: str) -> int:
    from agent.interception import namespace, operation, options

    if texts["network-namespace"]:
        namespace.enter(texts["network-namespace"])
    parsed = options.parse(_in_pod(texts), switches, _name_servers())
    for warning in parsed.warnings:
        sys.stderr.write(f"{warning}\n")
    if switches["dry-run"]:
        sys.stdout.writelines(operation.shown(parsed, backend))
        return 0
    if switches["cleanup-only"] or not switches["skip-rule-apply"]:
        outcome = operation.remove(parsed) if switches["cleanup-only"] else operation.apply(parsed, backend)
        sys.stderr.writelines(f"{warning}\n" for warning in outcome.warnings)
        sys.stdout.write(f"{outcome.text}\n")
    return _proven(parsed, texts) if switches["run-validation"] else 0


def _proven(parsed: Any, texts: Mapping[str, str]) -> int:  # noqa: ANN401  # of a module that is imported on use
    from agent.interception import operation

    port, timeout = _probe(texts)
    try:
        operation.prove(parsed, port, timeout)
    except MachineError as error:
        sys.stderr.write(f"{error}\n")
        return _UNPROVEN
    sys.stdout.write("proven\n")
    return 0


def _probe(texts: Mapping[str, str]) -> tuple[int, float]:
    """Return the port and the timeout of the proof. Raises `UsageError`."""
    from agent.istio import go_durations, go_flags

    try:
        port, timeout = go_flags.port(texts["iptables-probe-port"]), go_durations.seconds(texts["probe-timeout"])
    except ValueError as error:
        message = f"cannot use --iptables-probe-port or --probe-timeout: {error}"
        raise UsageError(message) from None
    return port, timeout


def _in_pod(texts: Mapping[str, str]) -> dict[str, str]:
    """Add the ports that are never intercepted in a pod."""
    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        return dict(texts)
    ports = [texts["local-exclude-ports"], *map(str, _POD_PORTS)]
    return {**texts, "local-exclude-ports": ",".join(filter(None, ports))}


def _name_servers() -> list[str]:
    """Return the addresses of the name servers."""
    from ipaddress import ip_address

    try:
        lines = Path("/etc/resolv.conf").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines]
    found = [each[1].partition("%")[0] for each in words if len(each) > 1 and each[0] == "nameserver"]
    servers = []
    for text in found:
        try:
            servers.append(str(ip_address(text)))
        except ValueError:
            continue
    return servers
