"""Pushes certificates into a running HAProxy at its console: `set ssl cert`, then `commit ssl cert`.

Each handshake after a commit has the new certificate, at every bind that uses it; no connection ends and no process
starts. Measured on 2.6: 1.7 ms for both commands. A content that does not parse is refused at `set`, a key that does
not fit at `commit`; the old one is served on.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from agent.core.errors import MachineError
from agent.http.message import Request, Response
from agent.proxies.interface import Admin, PushRefusedError, Subscription

if TYPE_CHECKING:
    from agent.proxies.haproxy.console import Console

_SUCCESS = re.compile(r"Success!")
_UNDER_WAY = re.compile(r"ransaction (?:created|updated)")  # the second for the key of a certificate
_NOT_ABOUT_IT = ("Unknown command", "Permission denied", "ongoing transaction", "too large", "too big")
_NOISE = re.compile(r"^(?:Committing .*|Failed!|Can't update .*)$", re.MULTILINE)
_SPECIAL = re.compile(r"([\s\\;<])")


@dataclass(frozen=True, slots=True)
class Pushable:
    """A file that can be pushed. `word`: its kind at the console; `name`: HAProxy's; `committed`: what is committed."""

    word: str
    path: str
    name: str
    committed: str


class Delivery:
    """Delivers the files of one epoch; it starts from those that it was executed with."""

    scopes: Collection[str] = ()
    refused: Sequence[Subscription] = ()
    drains = False

    def __init__(self, pushable: Sequence[Pushable]) -> None:
        self._pushable = pushable
        self._loaded: dict[str, bytes] = {}  # what the process has, by path

    def offer(self, numbers: Mapping[str, int], contents: Mapping[str, bytes]) -> None:
        """Note the files that the process is executed with."""
        del numbers
        self._loaded = {each.path: contents[each.path] for each in self._pushable if each.path in contents}

    def assume(self, numbers: Mapping[str, int], contents: Mapping[str, bytes]) -> None:
        """Note what an earlier agent delivered."""
        self.offer(numbers, contents)

    async def answer(self, request: Request) -> Response | None:
        """Return None: HAProxy asks for nothing."""
        del request
        return None

    async def push(
        self, admin: Admin, numbers: Mapping[str, int], contents: Mapping[str, bytes], *, again: bool = False
    ) -> None:
        """Set and commit every changed file; `again`: every file.

        Raises `PushRefusedError` with the path of a file that HAProxy rejects, `MachineError` if it does not respond.
        """
        del numbers
        console = cast("Console", admin)
        console.refusals.clear()
        changed = {
            each.committed: each.word
            for each in self._pushable
            if again or contents.get(each.path) != self._loaded.get(each.path)
        }
        for committed, word in changed.items():
            files = [each for each in self._pushable if each.committed == committed]
            await self._commit(console, word, committed, {each.name: contents[each.path] for each in files}, files[0])
            self._loaded |= {each.path: contents[each.path] for each in files}

    async def _commit(
        self, console: "Console", word: str, committed: str, files: Mapping[str, bytes], first: Pushable
    ) -> None:
        try:
            for name, content in files.items():
                command = f"set ssl {word} {_escaped(name)} <<\n{_payload(content)}\n\n"
                await _expect(console, command, _UNDER_WAY, first)
            await _expect(console, f"commit ssl {word} {_escaped(committed)}\n", _SUCCESS, first)
        except PushRefusedError:
            await console.command(f"abort ssl {word} {_escaped(committed)}\n")
            raise


async def _expect(console: "Console", command: str, wanted: re.Pattern[str], file: Pushable) -> None:
    answer = await console.command(command)
    if wanted.search(answer):
        return
    reason = " ".join(_NOISE.sub("", answer).split())
    if not reason or any(each in reason for each in _NOT_ABOUT_IT):
        message = f"{file.path} cannot be pushed: {reason or 'no answer'}"
        raise MachineError(message)
    console.refusals.append(f"{file.name}: {reason}")
    raise PushRefusedError(file.path)


def _escaped(name: str) -> str:
    """Return a name as one word of a command."""
    return _SPECIAL.sub(r"\\\1", name)


def _payload(content: bytes) -> str:
    """Return a PEM file without empty lines: the first one would end the command."""
    lines = (line.rstrip() for line in content.split(b"\n"))
    return b"\n".join(line for line in lines if line).decode("latin-1")
