"""The programs of a packet filter, as scripts over a small model that keeps its state in files."""

import json
import os
import stat
import sys
from pathlib import Path

from tests.interception.kernel import Kernel, RefusedError

_SCRIPT = """\
#!{python}
import sys
sys.path[:0] = {paths}
from pathlib import Path
from tests.interception import programs
programs.run(Path({state}), {verb!r})
"""


class Programs:
    """A directory of programs, to be the PATH of a test; each flavour and family has its own state."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def install(self, flavour: str, command: str = "iptables") -> None:
        """Install the programs that save and restore."""
        for verb in ("save", "restore"):
            name = "-".join(filter(None, [command, flavour, verb]))
            state = self.directory / f"{command}-{flavour}.json"
            text = _SCRIPT.format(python=sys.executable, paths=sys.path, state=repr(str(state)), verb=verb)
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        """Write a program."""
        path = self.directory / name
        path.write_text(text, encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def kernel(self, flavour: str, command: str = "iptables") -> Kernel:
        """Return the state of a flavour."""
        return _load(self.directory / f"{command}-{flavour}.json")

    def put(self, kernel: Kernel, flavour: str, command: str = "iptables") -> None:
        """Set the state of a flavour."""
        _store(self.directory / f"{command}-{flavour}.json", kernel)


def run(state: Path, verb: str) -> None:
    """Do what such a program does; refuse to restore where a file says so."""
    kernel = _load(state)
    if verb == "save":
        sys.stdout.write(kernel.save())
        return
    refusal = state.with_suffix(".refusal")
    if refusal.exists():
        sys.stderr.write(refusal.read_text(encoding="utf-8"))
        sys.exit(1)
    if "--test" in sys.argv:
        return
    try:
        kernel.restore(sys.stdin.read())
    except RefusedError as error:
        sys.stderr.write(f"iptables-restore: line {error} failed\n")
        sys.exit(1)
    _store(state, kernel)


def _load(state: Path) -> Kernel:
    return Kernel(json.loads(state.read_text(encoding="utf-8"))) if state.exists() else Kernel()


def _store(state: Path, kernel: Kernel) -> None:
    beside = state.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(kernel.tables), encoding="utf-8")
    beside.replace(state)
