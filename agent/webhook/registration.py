"""Writes the webhook's authorities into its MutatingWebhookConfiguration, by the pod's service account.

Nothing but `webhooks[*].clientConfig.caBundle` is changed: at the start, when the CA file changes, and every few
minutes, since a deployment tool may have put an old configuration back.
"""

import asyncio
import base64
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.certificates.contents import require
from agent.core.errors import BadInput, MachineError
from agent.host import clock
from agent.host.disk_thread import DiskThread
from agent.host.log import log_event
from agent.host.service_account import ServiceAccount
from agent.http.client import stream, whole
from agent.http.message import Request
from agent.inputs.finding_log import FindingLog
from agent.webhook.ca_bundle import Authorities, authorities, registered, renewed
from agent.webhook.serving_pair import SETTLE_TIMEOUT

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
AGAIN = 300.0  # seconds until the next look at what is registered
SOON, LATER = 1.0, 60.0  # seconds until the first retry after a failure, and at most between two
_TIMEOUT = 10.0  # seconds, for one request
_OK, _FORBIDDEN, _NOT_FOUND, _CONFLICT, _INVALID = 200, 403, 404, 409, 422

_Find = Callable[[], ServiceAccount]


class Registration:
    """Keeps the authorities of one configuration; `results` counts what became of each attempt."""

    def __init__(self, name: str, authority_file: Path, disk: DiskThread, find: _Find = ServiceAccount.find) -> None:
        self.results = dict.fromkeys(("unchanged", "written", "failed"), 0)
        self.own: Authorities = ()
        self._name = name
        self._path = str(authority_file)
        self._disk = disk
        self._find = find
        self._previous: Authorities = ()
        self._reports = FindingLog(0.0)
        self._changed = asyncio.Event()

    def reload_soon(self) -> None:
        """Read the CA file again."""
        self._changed.set()

    async def run(self) -> None:
        """Register at once and whenever it is due, until cancelled."""
        delay = SOON
        while True:
            self._changed.clear()
            if await self._attempt():
                delay = SOON
                await self._wait(AGAIN)
            else:
                await self._wait(delay)
                delay = min(2 * delay, LATER)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _attempt(self) -> bool:
        """Register if that is necessary; log a failure once, and return whether there was none."""
        try:
            result = await self._register()
        except (OSError, MachineError, BadInput, ValueError) as error:  # ValueError: an invalid host name
            why = str(error) or "the API server does not answer"
            text = f"cannot register the authorities in {self._name}: {why}; the webhook serves, and retries"
            self._reports.once("webhook.unregistered", text, logging.ERROR)
            self.results["failed"] += 1
            return False
        self._reports.once("webhook.unregistered", "")
        self.results[result] += 1
        return True

    async def _register(self) -> str:
        await self._read()
        account = self._find()
        configuration = await self._get(account)
        operations = [*self._operations(configuration)]
        if not operations:
            return "unchanged"
        version = _at(configuration, "metadata", "resourceVersion")
        await self._patch(account, [{"op": "test", "path": "/metadata/resourceVersion", "value": version}, *operations])
        log_event(logging.INFO, "webhook.registered", f"the authorities in {self._path} are registered in {self._name}")
        return "written"

    async def _read(self) -> None:
        content = require(await self._disk.read([self._path], SETTLE_TIMEOUT), self._path)
        own = authorities(self._path, content)
        if {*own} != {*self.own}:
            self._previous, self.own = self.own, own

    def _operations(self, configuration: Mapping[str, Any]) -> Iterator[dict[str, object]]:
        """Yield the operations for the webhooks whose bundle is to change."""
        for index, webhook in enumerate(configuration.get("webhooks") or ()):
            present = _decoded(_at(webhook, "clientConfig", "caBundle"))
            bundle = renewed(self._path, self.own, registered(present), self._previous, clock.calendar())
            if bundle is not None:
                path = f"/webhooks/{index}"
                value = base64.b64encode(bundle).decode("ascii")
                yield {"op": "test", "path": f"{path}/name", "value": webhook.get("name")}
                yield {"op": "add", "path": f"{path}/clientConfig/caBundle", "value": value}

    async def _get(self, account: ServiceAccount) -> dict[str, Any]:
        status, body = await self._ask(account, "GET")
        if status != _OK:
            raise self._failure(status, account)
        found = json.loads(body)
        if not isinstance(found, dict):
            message = "the API server answers something else than a configuration"
            raise MachineError(message)
        return found

    async def _patch(self, account: ServiceAccount, operations: list[dict[str, object]]) -> None:
        status, _ = await self._ask(account, "PATCH", json.dumps(operations).encode())
        if status in {_CONFLICT, _INVALID}:
            message = "it was changed at the same time"
            raise ConnectionError(message)
        if status != _OK:
            raise self._failure(status, account)

    async def _ask(self, account: ServiceAccount, method: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send one request about the configuration; return the status and the body."""
        headers = [("authorization", f"Bearer {account.token}"), ("accept", "application/json")]
        if body:
            headers.append(("content-type", "application/json-patch+json"))
        request = Request(method, f"{CONFIGURATIONS}/{self._name}", tuple(headers), body)
        async with asyncio.timeout(_TIMEOUT):
            async with stream((account.host, account.port), request, account.authority, account.trust()) as response:
                assert not isinstance(response.body, bytes), "a response is streamed"
                return response.status, await whole(response.body)

    def _failure(self, status: int, account: ServiceAccount) -> MachineError:
        if status == _NOT_FOUND:
            return MachineError("there is no such configuration; apply what `agent webhook --manifest` prints")
        if status == _FORBIDDEN:
            where = f"the service account of the pod in {account.pod.namespace}"
            return MachineError(f"the API server answers 403; let {where} get and patch it")
        return MachineError(f"the API server answers {status}")


def _at(value: object, *keys: str) -> object:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _decoded(bundle: object) -> bytes:
    try:
        return base64.b64decode(bundle if isinstance(bundle, str) else "")
    except ValueError:
        return b""
