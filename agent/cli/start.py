"""Runs the agent in a process of its own state: the parsed options reach it across an exec, without click.

A running agent never parses a command line again, and click with all commands takes 4 MB. The exec keeps the pid, the
blocked signals and every inherited descriptor; it costs the start of an interpreter, about 20 ms.
"""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from agent import __version__
from agent.core.errors import AgentError, BadInput, UsageError

if TYPE_CHECKING:
    from agent.inputs.settings import Settings

VARIABLE = "AGENT_INVOCATION"
"""The environment variable with the number of the descriptor from which the options are read."""

USAGE = 2
"""The exit code of a command with an invalid command line."""

_UNUSABLE, _FAILED = 78, 1
_COMM = Path("/proc/self/comm")
_untaken: list[str] = []  # the version, if the process was passed an invocation of it that cannot be read


@dataclass(frozen=True, slots=True)
class Invocation:
    """A parsed command line: values by option, and the proxy's arguments.

    `ignored`: messages about variables without an effect; `unused`: the same about what pilot-agent was given.
    `usage_code`: the exit code if the options cannot be used.
    """

    options: Mapping[str, Any]
    arguments: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    usage_code: int = USAGE


def execute(invocation: Invocation) -> int:
    """Execute this program again, which then runs the agent; run it in this process if that is not possible.

    An invocation that this very version could not take would not be taken the next time either.
    """
    if _untaken:
        return run(invocation)
    descriptor = _written(invocation)
    os.environ[VARIABLE] = str(descriptor)
    with suppress(OSError):
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606  # our own command line
    del os.environ[VARIABLE]
    os.close(descriptor)
    return run(invocation)


def take() -> Invocation | None:
    """Return the invocation that the process passed on before its exec, once.

    Returns None if there is none, or if it is from another version, whose options differ.
    """
    try:
        with open(int(os.environ.pop(VARIABLE)), "rb") as file:  # noqa: PTH123  # a descriptor
            passed = json.load(file, object_hook=_decoded)
        if passed["version"] != __version__:
            return None
        _untaken.append(__version__)
        with suppress(OSError):
            _COMM.write_text(passed["name"], encoding="utf-8")  # an exec by way of a script's interpreter changes it
        options = {name: tuple(each) if isinstance(each, list) else each for name, each in passed["options"].items()}
        messages = tuple(passed["ignored"]), tuple(passed["unused"])
        invocation = Invocation(options, tuple(passed["arguments"]), *messages, passed["usage_code"])
        _untaken.clear()
    except (KeyError, TypeError, ValueError, OSError):
        return None
    return invocation


def main(invocation: Invocation) -> NoReturn:
    """Run the agent and exit with its code; an error is a line on standard error."""
    try:
        code = run(invocation)
    except AgentError as error:
        sys.stderr.write(f"agent: {error}\n")
        code = exit_code(error, invocation.usage_code)
    sys.exit(code)


def exit_code(error: AgentError, usage_code: int = USAGE) -> int:
    """Return the exit code of a command that ends with this error."""
    if isinstance(error, UsageError):
        return usage_code
    return _UNUSABLE if isinstance(error, BadInput) else _FAILED


def run(invocation: Invocation) -> int:
    """Run the agent and its upgrades until one returns an exit code.

    Raises `AgentError` if it cannot start or continue.
    """
    import logging

    from agent.cli.settings import running
    from agent.host.log import configure, log_event
    from agent.host.termination_log import leave_reason
    from agent.processes import upgrade_check
    from agent.supervisor import supervisor  # noqa: F401  # a trial of a new program imports all of it

    configure(invocation.options["log_format"], invocation.options["log_level"])
    for text in invocation.ignored:
        log_event(logging.WARNING, "environment.ignored", text)
    for text in invocation.unused:
        log_event(logging.WARNING, "pilot.unused", f"as pilot-agent: {text}")
    settings = running(invocation.options, invocation.arguments)
    if upgrade_check.VARIABLE in os.environ:
        sys.stdout.write(f"{upgrade_check.dry_run(settings)}\n")
        return 0
    _prepare(settings)
    try:
        return _run(settings)
    except AgentError as error:
        leave_reason(str(error))
        raise


def _prepare(settings: "Settings") -> None:
    """Set up this process, and what epochs inherit from it."""
    import logging

    from agent.core.errors import MachineError
    from agent.host import heap
    from agent.host.limits import forbid_core_dumps, raise_descriptor_limit, reserve_descriptors
    from agent.host.log import log_event
    from agent.host.parent_death_filter import keep_children_alive

    heap.keep_small()
    reserve_descriptors(settings.kind.reserved_descriptors)
    raise_descriptor_limit()
    forbid_core_dumps()
    if settings.survive:
        try:
            keep_children_alive()
        except MachineError as error:
            log_event(logging.WARNING, "agent.not_surviving", str(error))


def _run(settings: "Settings") -> int:
    import asyncio
    import logging

    from agent.host.log import log_event
    from agent.supervisor.supervisor import EXECUTE

    while (code := asyncio.run(_supervise(settings))) == EXECUTE:
        try:
            os.execv(sys.executable, sys.orig_argv)  # noqa: S606  # our own command line
        except OSError as error:
            log_event(
                logging.ERROR, "agent.not_executed", f"cannot execute the new program: {error}; the old one stays"
            )
    return code


async def _supervise(settings: "Settings") -> int:
    from agent.host.run_directory import RunDirectory
    from agent.supervisor.supervisor import Supervisor

    directory = RunDirectory(settings.run_directory, traversable=settings.has_other_users)
    try:
        return await Supervisor(settings, directory).run()
    finally:
        directory.close()


def _written(invocation: Invocation) -> int:
    """Return an inheritable memfd with the invocation as JSON, at its beginning."""
    passed = {
        "version": __version__,
        "name": _COMM.read_text(encoding="utf-8", errors="replace").strip(),
        "options": dict(invocation.options),
        "arguments": invocation.arguments,
        "ignored": invocation.ignored,
        "unused": invocation.unused,
        "usage_code": invocation.usage_code,
    }
    document = json.dumps(passed, default=_encoded).encode("ascii")
    descriptor = os.memfd_create("agent-invocation", 0)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(document)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _encoded(value: object) -> dict[str, str]:
    """Encode the one type of value that JSON lacks."""
    if isinstance(value, Path):
        return {"path": str(value)}
    message = f"an option has a value of the type {type(value).__name__}, which cannot be passed on"
    raise TypeError(message)


def _decoded(value: dict[str, Any]) -> Any:  # noqa: ANN401  # JSON
    return Path(value["path"]) if value.keys() == {"path"} else value
