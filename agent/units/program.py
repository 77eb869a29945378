"""The running `agent` command, and whether a unit can start it."""

import re
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import agent
from agent.core.errors import MachineError

HIDDEN = {
    "/home": "ProtectHome=yes",
    "/root": "ProtectHome=yes",
    "/run/user": "ProtectHome=yes",
    "/tmp": "PrivateTmp=yes",  # noqa: S108  # not used: refused
    "/var/tmp": "PrivateTmp=yes",  # noqa: S108  # as above
}
"""The directories that the units hide, and the setting that hides each: systemd.exec(5)."""

_PLAIN = re.compile(r"[\w/.+:,~=@-]+", re.ASCII)
_ELSEWHERE = {
    "uv-receipt.toml": "UV_TOOL_DIR=/opt/uv/tools UV_TOOL_BIN_DIR=/usr/local/bin uv tool install proxy-agent",
    "pipx_metadata.json": "PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install proxy-agent",
}
"""For each tool: the file that marks its environments, and the command for a place that units can read."""
_BY_HAND = "python3 -m venv /opt/proxy-agent, then /opt/proxy-agent/bin/pip install proxy-agent"


@dataclass(frozen=True, slots=True)
class Program:
    """An `agent` command, with the environment, the interpreter and the package that it consists of."""

    path: Path
    environment: Path
    interpreter: Path
    package: Path


def running() -> Program:
    """Return the command that runs now. Raises `MachineError` if it is no file of this environment."""
    called = shutil.which(sys.argv[0]) if Path(sys.argv[0]).name == "agent" else None
    path = Path(called) if called else Path(sysconfig.get_path("scripts"), "agent")
    if not path.is_file():
        message = f"cannot find the command of {sys.executable}: there is no {path}; install the package proxy-agent"
        raise MachineError(message)
    return Program(path.absolute(), Path(sys.prefix), Path(sys.executable), Path(agent.__file__).parent)


def check(program: Program) -> None:
    """Raise `MachineError` if a unit cannot start the program, or could not for long."""
    if not _PLAIN.fullmatch(str(program.path)):
        message = (
            f"cannot write units for {program.path}: a unit would interpret a character of this path;"
            " install the agent at a path of letters, digits and / . _ + : , ~ = @ -"
        )
        raise MachineError(message)
    _check_visible(program)
    _check_kept(program)


def _check_visible(program: Program) -> None:
    """Check each place as it is written and where its links lead: the interpreter may be elsewhere."""
    for place in (program.path, program.environment, program.package, program.interpreter):
        for path in (place, place.resolve()):
            directory = next((each for each in HIDDEN if path.is_relative_to(each)), None)
            if directory is not None:
                message = (
                    f"cannot write units for {program.path}: {HIDDEN[directory]} hides {path} from the service,"
                    f" which would end with status 203/EXEC; install the agent outside of {directory}:"
                    f" {_remedy(program)}"
                )
                raise MachineError(message)


def _remedy(program: Program) -> str:
    environment = program.environment.resolve()
    if not any(environment.is_relative_to(each) for each in HIDDEN):
        return "create its environment with an interpreter from elsewhere, such as /usr/bin/python3"
    found = [command for file, command in _ELSEWHERE.items() if (environment / file).exists()]
    return found[0] if found else _BY_HAND


def _check_kept(program: Program) -> None:
    """Refuse a cache, which its owner may empty: https://bford.info/cachedir/ marks it.

    The environment itself does not count: uv marks each that it creates, so that backups leave it out.
    """
    for directory in program.environment.resolve().parents:
        if (directory / "CACHEDIR.TAG").exists():
            message = (
                f"cannot write units for {program.path}: it is in the cache {directory}, which can be emptied at any"
                f" time; install the agent: {_ELSEWHERE['uv-receipt.toml']}"
            )
            raise MachineError(message)
