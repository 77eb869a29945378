"""`pilot-agent request` and `pilot-agent wait`: hooks and probes of a pod that was written for pilot-agent.

As the commands that they stand for: exit code 0 or 255; on standard output the answer only, which istioctl parses.
"""

import sys
import time

from agent.control_client.client import at_url, explain, reason_of_page
from agent.core.errors import AgentError, MachineError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED = 255
"""The exit code of every error."""

_PORTS = (15000, 15004, 15020, 15021)
_ADMIN_PORT = "15000"
_REQUEST_TIMEOUT = 60.0  # seconds
_NOT_FOUND = 404  # not an error, there and here
_LAST_GOOD = 399


def run(name: str, arguments: "Sequence[str]") -> int:
    """Run `request` or `wait`; print an error to stderr, and return the exit code."""
    try:
        {"request": request, "wait": wait}[name](arguments)
    except AgentError as error:
        print(f"pilot-agent: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    except KeyboardInterrupt:
        return FAILED
    return 0


def request(arguments: "Sequence[str]") -> None:
    """Send a request to the proxy or the agent in this pod, and print the answer.

    Raises `UsageError`, or `MachineError` for a status above 399 that is not 404.
    """
    options, rest = _read("request", arguments, ("--debug-port",))
    port = options.get("--debug-port", _ADMIN_PORT)
    if port not in map(str, _PORTS):
        raise _usage("request", f"{port} is not one of the ports {', '.join(map(str, _PORTS))}")
    if len(rest) not in {2, 3}:
        raise _usage("request", "its arguments are METHOD PATH [BODY]")
    method, path = rest[0].upper(), f"/{rest[1].removeprefix('/')}"
    if not method.isalpha() or not path.isprintable() or " " in path:
        raise _usage("request", "the method or the path cannot be sent by HTTP")
    status, body = _answer(f"http://localhost:{port}{path}", method, "".join(rest[2:]))
    if status > _LAST_GOOD and status != _NOT_FOUND:
        message = f"cannot use the answer to {method} {path}: its status is {status}"
        raise MachineError(message)
    sys.stdout.flush()
    sys.stdout.buffer.write(body + b"\n")
    sys.stdout.buffer.flush()


def _answer(url: str, method: str, body: str) -> "tuple[int, bytes]":
    try:
        exchange, host, path = at_url(url, time.monotonic() + _REQUEST_TIMEOUT)
    except OSError as error:
        message = f"cannot reach {url}: {explain(error)}"
        raise MachineError(message) from None
    try:
        return exchange.ask(method, path, host, body.encode()), exchange.rest()
    except OSError as error:
        message = f"cannot read the answer of {url}: {explain(error)}"
        raise MachineError(message) from None
    finally:
        exchange.close()


def wait(arguments: "Sequence[str]") -> None:
    """Wait until a URL answers 200.

    Raises `UsageError`, or `MachineError` with the last reason.
    """
    names = ("--timeoutSeconds", "--requestTimeoutMillis", "--periodMillis", "--url")
    options, rest = _read("wait", arguments, names)
    if rest:
        raise _usage("wait", f"there is an argument {rest[0]!r} too many")
    timeout, attempt, period = (
        _number(options, name, default) for name, default in zip(names, ("60", "500", "500"), strict=False)
    )
    url = options.get("--url", "http://localhost:15021/healthz/ready")
    deadline = time.monotonic() + timeout
    while (reason := reason_of_page(url, time.monotonic() + attempt / 1000)) and time.monotonic() < deadline:
        time.sleep(max(0.0, min(period / 1000, deadline - time.monotonic())))
    if reason:
        message = f"cannot wait any longer than {timeout} s for readiness: {reason}"
        raise MachineError(message)


def _number(options: "dict[str, str]", name: str, default: str) -> int:
    text = options.get(name, default)
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise _usage("wait", f"{name} is not a number: {text!r}")
    return int(text)


def _read(command: str, arguments: "Sequence[str]", valued: "tuple[str, ...]") -> "tuple[dict[str, str], list[str]]":
    """Return the options, `--name value` or `--name=value`, and the other arguments. Raises `UsageError`."""
    options: dict[str, str] = {}
    others: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in valued:
            if not equals and not rest:
                raise _usage(command, f"{name} needs a value")
            options[name] = value if equals else rest.pop(0)
        elif word == "--":
            others += rest
            break
        elif word.startswith("-") and len(word) > 1:
            raise _usage(command, f"unknown flag {name}")
        else:
            others.append(word)
    return options, others


def _usage(command: str, why: str) -> UsageError:
    return UsageError(f"cannot run pilot-agent {command}: {why}")
