"""Resolves a STRICT_DNS cluster's names periodically; the last good result stays in use."""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_address

from agent.sidecar.clusters import Upstream
from agent.sidecar.model import Address, Pipe, SocketAddress

_FAMILIES = {
    "V4_ONLY": (socket.AF_INET,),
    "V6_ONLY": (socket.AF_INET6,),
    "V4_PREFERRED": (socket.AF_INET, socket.AF_INET6),
    "AUTO": (socket.AF_INET6, socket.AF_INET),
    "ALL": (socket.AF_UNSPEC,),
}


class Resolver:
    """Keeps one cluster's endpoints up to date."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._settings = upstream.settings
        self._answers: dict[str, tuple[str, ...]] = {}
        self._task: asyncio.Task[None] | None = None

    async def first(self) -> None:
        """Resolve once, with or without success, then start to resolve every `dns_refresh_rate`."""
        await self._ask()
        self._task = asyncio.get_running_loop().create_task(self._ask_again())

    async def close(self) -> None:
        """Stop resolving."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _ask_again(self) -> None:
        while True:  # the system's resolver does not return a record's lifetime
            await asyncio.sleep(self._settings.dns_refresh_rate)
            await self._ask()

    async def _ask(self) -> None:
        names = {each.host for each in self._settings.endpoints if isinstance(each, SocketAddress)}
        await asyncio.gather(*(self._resolve(name) for name in sorted(names)))
        self._upstream.take(self._endpoints())

    def _endpoints(self) -> list[Address]:
        found: list[Address] = []
        for each in self._settings.endpoints:
            if isinstance(each, Pipe):
                found.append(each)
            else:
                found += [SocketAddress(number, each.port) for number in self._answers.get(each.host, ())]
        return list(dict.fromkeys(found))

    async def _resolve(self, name: str) -> None:
        counters = self._upstream.counters
        counters.update_attempt.add()
        try:
            self._answers[name] = await _numbers(name, _FAMILIES.get(self._settings.dns_family, _FAMILIES["AUTO"]))
        except OSError:
            counters.update_failure.add()
        else:
            counters.update_success.add()


async def _numbers(name: str, families: Sequence[socket.AddressFamily]) -> tuple[str, ...]:
    """Return the addresses of the first family that has any; raise OSError if none has."""
    if _is_number(name):
        return (name,)
    loop = asyncio.get_running_loop()
    trouble = OSError("no answer")
    for family in families:
        try:
            found = await loop.getaddrinfo(name, None, family=family, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            trouble = OSError(str(error))
        else:
            return tuple(sorted({str(entry[4][0]) for entry in found}))
    raise trouble


def _is_number(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
