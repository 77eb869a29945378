"""Fetches one secret by SDS: REST long polls at a Unix socket, as Envoy makes them.

The control plane holds a poll until it has something new. The next poll acknowledges by the version that is in use, and
refuses by that of before.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.core.errors import BadInput
from agent.http.client import exchange
from agent.http.message import Request
from agent.sidecar.config.discovery import TYPE
from agent.sidecar.counters import Group
from agent.sidecar.model import SecretSource
from agent.stats.writer import Counter, Writer

_NOTHING_NEW = 304
_log = logging.getLogger("config")

Apply = Callable[[bytes], Awaitable[str]]


class _Counters(Group):
    init_fetch_timeout: Counter
    update_attempt: Counter
    update_failure: Counter
    update_rejected: Counter
    update_success: Counter


class Subscription:
    """Polls for one secret until closed.

    `apply` puts a response into use and returns its version, or raises BadInput. `node` is the node's id and cluster.
    """

    def __init__(self, source: SecretSource, path: Path, node: tuple[str, str], stats: Writer, apply: Apply) -> None:
        self.scope = f"sds.{source.name.replace('://', '_').replace(':/', '_').replace(':', '_')}."
        self.version = ""
        self._source = source
        self._path = path
        self._node = node
        self._counters = _Counters(stats, self.scope)
        self._apply = apply
        self._settled = asyncio.Event()
        self._is_reachable = True
        self._task: asyncio.Task[None] | None = None

    async def first(self) -> None:
        """Begin to poll; return when a first response is in use or rejected, or `initial_fetch_timeout` is over."""
        self._task = asyncio.get_running_loop().create_task(self._poll_for_ever())
        self._task.add_done_callback(_report)
        try:
            async with asyncio.timeout(self._source.initial_fetch_timeout or None):
                await self._settled.wait()
        except TimeoutError:
            self._counters.init_fetch_timeout.add()
            _log.warning("secret %s has not come in time; its connections are refused until then", self._source.name)

    async def close(self) -> None:
        """Stop polling."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _poll_for_ever(self) -> None:
        while True:
            await self._poll()
            await asyncio.sleep(self._source.refresh_delay)

    async def _poll(self) -> None:
        self._counters.update_attempt.add()
        try:
            status, body = await exchange(self._path, self._request(), timeout=self._source.request_timeout)
            if status not in {200, _NOTHING_NEW}:
                raise ConnectionError(f"it answers with status {status}")
        except OSError as error:
            self._failed(error)
            return
        self._is_reachable = True
        if status != _NOTHING_NEW:
            await self._received(body)

    def _request(self) -> Request:
        node_id, cluster = self._node
        asked = {
            **({"version_info": self.version} if self.version else {}),
            "node": {"id": node_id, "cluster": cluster, "user_agent_name": "sidecar"},
            "resource_names": [self._source.name],
            "type_url": f"type.googleapis.com/{TYPE}",
        }
        headers = (("content-type", "application/json"),)
        return Request("POST", "/v3/discovery:secrets", headers, json.dumps(asked).encode())

    async def _received(self, body: bytes) -> None:
        try:
            self.version = await self._apply(body)
        except BadInput as error:
            self._counters.update_rejected.add()
            _log.warning("%s; what was in use stays in use", error)
        else:
            self._counters.update_success.add()
            _log.info("secret %s is in use, version %s", self._source.name, self.version)
        self._settled.set()

    def _failed(self, error: OSError) -> None:
        """Count it; log the first failure only, since a control plane may be away for days."""
        self._counters.update_failure.add()
        if self._is_reachable:
            self._is_reachable = False
            why = str(error) or "it does not answer in time"
            every = f"{self._source.refresh_delay:g}s"
            _log.warning("cannot fetch secret %s: %s; trying again every %s", self._source.name, why, every)


def _report(ended: asyncio.Task[None]) -> None:
    """Let the loop log a bug that has ended the polls; nothing else would say that certificates stay as they are."""
    if not ended.cancelled():
        ended.result()
