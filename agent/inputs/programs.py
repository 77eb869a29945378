"""The proxy's program: opened once, probed for versions, replaced only on request."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from agent.core.errors import BadInput, MachineError, UsageError
from agent.handoff.segment import HotRestartVersion
from agent.host.binaries import Binary, identity_of, open_binary
from agent.host.processes import Command, User, run
from agent.inputs.revisions import Program
from agent.proxies.interface import Proxy

_PROBE_TIMEOUT = 10.0
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Aside(Protocol):
    """Calls a function off the event loop."""

    async def __call__(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return the function's result."""


class Programs:
    """The program at `path` that epochs run, and whether that file has changed."""

    def __init__(self, path: Path, kind: Proxy, user: User | None) -> None:
        self.path = path
        self._kind = kind
        self.current: Program | None = None
        self.aside: Aside = asyncio.to_thread  # for calls that may block on the file system
        self._user = user
        self._seen: tuple[int, ...] | None = None  # identity of the file checked last, usable or not
        self._superseded: list[Binary] = []

    def adopt(self, program: Program) -> None:
        """Use the program of an adopted epoch, if it is the one at `path`."""
        if self.current is None and program.binary.path == self.path:
            self.current, self._seen = program, program.binary.identity

    def changed(self) -> bool:
        """Return whether the file at `path` differs from the one checked last."""
        identity = identity_of(self.path)
        return identity is not None and identity != self._seen

    def ask_again(self) -> None:
        """Check the same file again at the next load."""
        self._seen = None

    async def load(self) -> bool:
        """Load the program at `path`; return False if its content is the current one.

        Raises `BadInput` if it cannot be used, once for each file; the current program stays in use.
        """
        try:
            binary = await self.aside(open_binary, self.path)
        except UsageError as error:
            self._seen = await self.aside(identity_of, self.path)
            raise BadInput(str(error)) from error
        self._seen = binary.identity
        if self.current is not None and await self.aside(self._same, self.current.binary, binary):
            binary.close()
            return False
        try:
            program = await self._probe(binary)
        except (BadInput, MachineError) as error:
            binary.close()
            remedy = "name another program by --proxy-bin, or its kind by --proxy-kind"
            if isinstance(error, MachineError):  # the machine may have been too busy
                remedy = "the agent tries again" if self.current is None else "try again with agent restart"
                if self.current is None:
                    self.ask_again()
            message = f"cannot use {self.path}: {error}; {remedy}"
            raise BadInput(message) from error
        if self.current is not None:
            self._superseded.append(self.current.binary)
        self.current = program
        return True

    @staticmethod
    def _same(one: Binary, other: Binary) -> bool:
        return one.digest == other.digest

    async def _probe(self, binary: Binary) -> Program:
        # Await both: the failure of one must not leave the other running.
        if not self._kind.version_probe:
            number, reads_json = self._kind.version("")
            return Program(binary, self._kind, number, None, reads_json)
        questions = [self._ask(binary, self._kind.version_probe)]
        if self._kind.handoff_probe is not None:
            questions.append(self._ask(binary, self._kind.handoff_probe))
        version, *handoff = map(_required, await asyncio.gather(*questions, return_exceptions=True))
        number, reads_json = self._kind.version(version)
        protocol = HotRestartVersion.parse(handoff[0]) if handoff else None
        return Program(binary, self._kind, number, protocol, reads_json)

    async def _ask(self, binary: Binary, arguments: tuple[str, ...]) -> str:
        command = Command(binary.descriptor, [str(self.path), *arguments], user=self._user)
        code, output = await run(command, _PROBE_TIMEOUT)
        if code != 0:
            message = f"it exited with {code} when asked for its {arguments[0].removeprefix('--')}"
            raise BadInput(message)
        return output

    def forget_unused(self, used: set[int]) -> None:
        """Close superseded programs whose descriptors are not in `used`."""
        for binary in [each for each in self._superseded if each.descriptor not in used]:
            self._superseded.remove(binary)
            binary.close()


def _required(answer: str | BaseException) -> str:
    if isinstance(answer, BaseException):
        raise answer
    return answer
