"""One xDS stream: state of the world, or incremental (delta).

Requests, changes of the behaviour and elapsed delays pass through one queue, so that only one coroutine decides and
writes. The protocol is that of Envoy's documentation, "xDS REST and gRPC protocol".
"""

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc  # type: ignore[import-untyped]

from tests.system.plane.behaviour import KINDS, SECRETS, WILDCARD, Behaviour
from tests.system.plane.resources import Versioned, encoded, version_of, xds

Record = Callable[..., None]
Message = Any  # grpc and messages compiled at run time have no types
_numbers = itertools.count(1)


@dataclass
class Shelf:
    """The behaviour in effect, its encoded resources, and the queues of the open streams."""

    behaviour: Behaviour
    resources: dict[str, dict[str, Versioned]] = field(default_factory=dict)
    queues: set["asyncio.Queue[object]"] = field(default_factory=set)

    def put(self, behaviour: Behaviour) -> None:
        """Activate another behaviour."""
        self.behaviour = behaviour
        self.resources = {kind: encoded(kind, trees) for kind, trees in behaviour.resources.items()}
        for queue in self.queues:
            queue.put_nowait(Changed())


@dataclass(frozen=True)
class Changed:
    """Another behaviour is in effect."""


@dataclass(frozen=True)
class Due:
    """The delay before a response of this kind has elapsed."""

    kind: str


@dataclass(frozen=True)
class Ended:
    """The client has closed its side."""


@dataclass
class Subscription:
    """A client's subscription of one kind, and the resources sent to it."""

    names: set[str] = field(default_factory=set)
    wildcard: bool = False
    nonce: str = ""
    sent: str | None = None
    known: dict[str, str] = field(default_factory=dict)


class Stream(ABC):
    """The server's side of one stream."""

    def __init__(self, shelf: Shelf, record: Record, context: Message) -> None:
        self.number = next(_numbers)
        self._shelf, self._context = shelf, context
        self._record: Record = partial(record, stream=self.number)
        self._queue: asyncio.Queue[object] = asyncio.Queue()
        self._subscriptions: dict[str, Subscription] = {}
        self._delayed: dict[str, asyncio.Task[None]] = {}
        self._nonces = itertools.count(1)
        self._empty = set(shelf.behaviour.empty_for_new)

    async def run(self, requests: AsyncIterator[Message], method: str, serial: str | None) -> None:
        """Serve the stream until its end."""
        self._record("opened", method=method, serial=serial)
        reader = asyncio.create_task(self._read(requests))
        self._shelf.queues.add(self._queue)
        try:
            await self._serve()
        finally:
            self._shelf.queues.discard(self._queue)
            for task in (reader, *self._delayed.values()):
                task.cancel()
            self._record("closed")

    async def _read(self, requests: AsyncIterator[Message]) -> None:
        async for request in requests:
            self._queue.put_nowait(request)
        self._queue.put_nowait(Ended())

    async def _serve(self) -> None:
        event: object = Changed()
        while not isinstance(event, Ended):
            if self._shelf.behaviour.unavailable:
                await self._context.abort(grpc.StatusCode.UNAVAILABLE, "the control plane is told to fail")
            await self._handle(event)
            event = await self._queue.get()

    async def _handle(self, event: object) -> None:
        match event:
            case Changed():
                for kind in self._subscriptions:
                    if self._outdated(kind):
                        await self._respond(kind)
            case Due(kind):
                del self._delayed[kind]
                await self._send(kind)
            case request:
                await self._request(request)

    async def _request(self, request: Message) -> None:
        kind = next((kind for kind, url in KINDS.items() if url == request.type_url), None)
        if kind is None:
            self._record("unknown", type_url=request.type_url)
        elif await self._requested(kind, request):
            await self._respond(kind)

    async def _requested(self, kind: str, request: Message) -> bool:
        """Record the requested names; return whether a response is due."""
        first = kind not in self._subscriptions
        subscription = self._subscriptions.setdefault(kind, Subscription())
        wants = self.subscribe(subscription, kind, request, first=first)
        if first:
            self._record("subscribed", kind=kind, names=sorted(subscription.names), node=request.node.id)
            return True
        if request.response_nonce == subscription.nonce and subscription.nonce:
            self._acknowledged(kind, request, subscription)
        return wants

    def _acknowledged(self, kind: str, request: Message, subscription: Subscription) -> None:
        if request.HasField("error_detail"):
            self._record("nack", kind=kind, version=subscription.sent, error=request.error_detail.message)
        else:
            self._record("ack", kind=kind, version=subscription.sent)

    async def _respond(self, kind: str) -> None:
        """Send the newest resources of a kind, after its delay."""
        delay = self._shelf.behaviour.delay_ms.get(kind, 0) / 1000
        if not delay:
            await self._send(kind)
        elif kind not in self._delayed:
            self._delayed[kind] = asyncio.create_task(self._later(kind, delay))

    async def _later(self, kind: str, delay: float) -> None:
        await asyncio.sleep(delay)
        self._queue.put_nowait(Due(kind))

    async def _send(self, kind: str) -> None:
        subscription, resources = self._subscriptions[kind], self._selected(kind)
        if kind in self._shelf.behaviour.silent or (kind == SECRETS and not resources):
            return
        response = self.response(kind, resources, f"{self.number}.{next(self._nonces)}")
        if response is not None:
            subscription.sent, subscription.nonce = version_of(resources.values()), response.nonce
            self._record("sent", kind=kind, version=subscription.sent, names=sorted(resources))
            await self._context.write(response)

    def _selected(self, kind: str) -> dict[str, Versioned]:
        behaviour, subscription = self._shelf.behaviour, self._subscriptions[kind]
        if kind in self._empty and kind in behaviour.empty_for_new:
            return {}
        resources = self._shelf.resources.get(kind, {})
        return {name: one for name, one in resources.items() if subscription.wildcard or name in subscription.names}

    def _outdated(self, kind: str) -> bool:
        return self._subscriptions[kind].sent != version_of(self._selected(kind).values())

    @abstractmethod
    def subscribe(self, subscription: Subscription, kind: str, request: Message, *, first: bool) -> bool:
        """Record the names in a request; return whether they differ from before."""

    @abstractmethod
    def response(self, kind: str, resources: dict[str, Versioned], nonce: str) -> Message:
        """Build the response with these resources; None if the client has them already."""


class StateOfTheWorld(Stream):
    """Each response contains all resources of the subscription."""

    def subscribe(self, subscription: Subscription, kind: str, request: Message, *, first: bool) -> bool:
        names = set(request.resource_names)
        stale = not first and request.response_nonce != subscription.nonce
        if stale or (not first and names == subscription.names):
            return False
        subscription.names, subscription.wildcard = names, kind in WILDCARD and not names
        return True

    def response(self, kind: str, resources: dict[str, Versioned], nonce: str) -> Message:
        packed = [one.packed for one in resources.values()]
        version = version_of(resources.values())
        return xds.DiscoveryResponse(version_info=version, resources=packed, type_url=KINDS[kind], nonce=nonce)


class Delta(Stream):
    """Each response contains the changes."""

    def subscribe(self, subscription: Subscription, kind: str, request: Message, *, first: bool) -> bool:
        added, left = set(request.resource_names_subscribe), set(request.resource_names_unsubscribe)
        if first:
            subscription.wildcard = kind in WILDCARD and (not added or "*" in added)
            subscription.known = dict(request.initial_resource_versions)
        else:
            for name in added | left:
                subscription.known.pop(name, None)
        subscription.names = (subscription.names | added) - left
        return bool(added)

    def response(self, kind: str, resources: dict[str, Versioned], nonce: str) -> Message:
        subscription = self._subscriptions[kind]
        known = subscription.known
        changed = [one for one in resources.values() if known.get(one.name) != one.version]
        removed = sorted(known.keys() - resources.keys()) if kind in WILDCARD else []
        if not changed and not removed and subscription.nonce:
            return None
        subscription.known = {one.name: one.version for one in resources.values()}
        items = [xds.Resource(name=one.name, version=one.version, resource=one.packed) for one in changed]
        version = version_of(resources.values())
        return xds.DeltaDiscoveryResponse(
            system_version_info=version, resources=items, type_url=KINDS[kind], nonce=nonce, removed_resources=removed
        )
