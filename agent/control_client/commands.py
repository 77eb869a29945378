"""`agent drain` and `agent wait`: hooks that a kubelet runs before stop and after start.

They parse their options without click: its import takes longer than the interpreter's start and these commands together
(`tests/benchmarks/bench_quick.py`), and a kubelet runs a hook for each container that starts or stops.
"""

import sys
import time

from agent.control_client.client import at_control, explain, reason_of_page
from agent.control_client.duration import seconds
from agent.control_client.run_dir import NoAgent, chosen
from agent.core.errors import AgentError, MachineError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ATTEMPT_INTERVAL = 0.05  # seconds between attempts to reach an agent or page
_PAGE_TIMEOUT = 1.0  # seconds for a page to respond
_GRACE = 0.5  # seconds beyond the timeout for the agent to send why it is not ready

DRAIN_HELP = """\
Usage: agent drain [OPTIONS]

  Drain the agent's listeners, and return when no connection remains: a preStop hook.

Options:
  --run-dir DIR   The agent's run directory, if it is not the default.  [env var: AGENT_RUN_DIR]
  --no-wait       Return at once; the drain continues.
  --timeout SPAN  Return after this time with exit code 1; the drain continues.  [default: the agent's own deadline]
  -h, --help      Show this message and exit.
"""

WAIT_HELP = """\
Usage: agent wait [OPTIONS]

  Wait until the agent is ready, even if it has not started yet: a postStart hook.

Options:
  --run-dir DIR   The agent's run directory, if it is not the default.  [env var: AGENT_RUN_DIR]
  --timeout SPAN  Give up after this time with the reason and exit code 1.  [default: 60s]
  --url URL       Ask this URL instead, such as http://127.0.0.1:15020/healthz/ready.
  -h, --help      Show this message and exit.
"""


def run(name: str, arguments: "Sequence[str]") -> int:
    """Run a command by its name; print an error to stderr, and return the exit code."""
    try:
        {"drain": drain, "wait": wait}[name](arguments)
    except AgentError as error:
        print(f"agent: {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 1
    return 0


OPTIONS = {"drain": (("--run-dir", "--timeout"), ("--no-wait",)), "wait": (("--run-dir", "--timeout", "--url"), ())}
"""For each command, the options with a value and those without one."""


def drain(arguments: "Sequence[str]") -> None:
    """Drain, and wait for the end unless told not to.

    Raises `UsageError`, or `MachineError` with the reason.
    """
    options = _read("drain", arguments, *OPTIONS["drain"])
    if options is None:
        return _print(DRAIN_HELP)
    deadline = _deadline(options.get("--timeout"))
    exchange = at_control(chosen(options.get("--run-dir")), deadline)
    try:
        status = exchange.ask("POST", "/drain?wait=0" if "--no-wait" in options else "/drain")
        text = exchange.text()
    except TimeoutError:
        message = f"cannot wait any longer for the drain: it has not ended after {options['--timeout']}, and continues"
        raise MachineError(message) from None
    except OSError as error:
        message = f"cannot determine how the drain ended: {explain(error)}"
        raise MachineError(message) from None
    finally:
        exchange.close()
    if status not in {200, 202}:
        raise MachineError(text or f"cannot drain: the agent answers {status}")
    return _print(f"{text}\n")


def wait(arguments: "Sequence[str]") -> None:
    """Wait for readiness. Raises `UsageError`, or `MachineError` with the reason."""
    options = _read("wait", arguments, *OPTIONS["wait"])
    if options is None:
        return _print(WAIT_HELP)
    timeout = options.get("--timeout", "60s")
    until_ready(chosen(options.get("--run-dir")), timeout, options.get("--url"))
    return _print("ready\n")


def until_ready(directory: str, timeout: str, url: str | None = None) -> None:
    """Wait until an agent exists and is ready.

    Raises `MachineError` with the reason after `timeout`, a duration.
    """
    deadline = _deadline(timeout)
    assert deadline is not None
    while True:
        reason = _reason_by_url(url, deadline) if url else _reason_by_control(directory, deadline)
        left = deadline - time.monotonic()
        if not reason:
            return
        if left <= 0:
            message = f"cannot wait any longer than {timeout} for readiness: {reason}"
            raise MachineError(message)
        time.sleep(min(ATTEMPT_INTERVAL, left))


def _reason_by_control(directory: str, deadline: float) -> str:
    """Wait for readiness until the deadline; return why the agent is not ready, or empty."""
    left = max(0.0, deadline - time.monotonic())
    try:
        exchange = at_control(directory, deadline + _GRACE)
    except NoAgent as error:
        return str(error)
    try:
        status = exchange.ask("GET", f"/ready?wait={left:.3f}")
        return "" if status == 200 else exchange.text() or f"it answers {status}"
    except OSError as error:
        return f"the agent at {directory} does not answer: {explain(error)}"
    finally:
        exchange.close()


def _reason_by_url(url: str, deadline: float) -> str:
    return reason_of_page(url, min(deadline + _GRACE, time.monotonic() + _PAGE_TIMEOUT))


def _read(
    command: str, arguments: "Sequence[str]", valued: tuple[str, ...], flags: tuple[str, ...]
) -> dict[str, str] | None:
    """Parse options, `--name value` or `--name=value`; return None if help is requested.

    Raises `UsageError`.
    """
    options: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name in {"-h", "--help"}:
            return None
        if name in valued:
            if not equals and not rest:
                raise _usage(command, f"{name} needs a value")
            options[name] = value if equals else rest.pop(0)
        elif name in flags and not equals:
            options[name] = ""
        else:
            raise _usage(command, f"unknown argument {name + equals + value}")
    return options


def _usage(command: str, why: str) -> UsageError:
    return UsageError(f"cannot run agent {command}: {why}; see agent {command} --help")


def _deadline(timeout: str | None) -> float | None:
    if timeout is None:
        return None
    try:
        return time.monotonic() + seconds(timeout)
    except ValueError as error:
        message = f"cannot use --timeout: {error}"
        raise UsageError(message) from None


def _print(text: str) -> None:
    print(text, end="")  # noqa: T201  # unlike sys.stdout.write, it handles a missing stdout
