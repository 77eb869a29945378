"""Delivers listeners and secrets to one Envoy, by REST long polls at its gate.

Envoy asks with the version that it last applied; the request waits until there is another one. An answer is sent once:
a proxy that refuses it asks with its old version again, and waits for the next. Envoy asks again some time after an
answer, so the next request tells whether it was applied, but late; its admin interface tells it at once, unless the
operator hides the counters.
See https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#rest-json-polling-subscriptions
"""

import asyncio
import contextlib
import hashlib
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from agent.http.message import Request, Response
from agent.proxies.envoy import subscriptions
from agent.proxies.envoy.document import Content
from agent.proxies.envoy.push_form import SECRET, PushForm
from agent.proxies.interface import Admin, Delivered, PushRefusedError, Subscription

_LISTENERS, _SECRETS = "/v3/discovery:listeners", "/v3/discovery:secrets"
_TYPES = {
    _LISTENERS: "type.googleapis.com/envoy.config.listener.v3.Listener",
    _SECRETS: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
}
_FIRST = 0.003  # seconds from an answer to the first question whether it is applied: both wait for one thread of Envoy
_INTERVAL = 0.005  # between further questions
_UNSENT = 0.25  # seconds to wait for a request to answer, before Envoy is asked all the same: it may have exited
_HEADERS = (("content-type", "application/json"),)


@dataclass(slots=True)
class _Offer:
    """The newest content of one subscription. `version` is empty before the first push of an adopted epoch."""

    text: str = field(default="", repr=False)  # a secret holds a private key
    version: str = ""
    sent: str = ""  # the version that was last sent
    acknowledged: str = ""  # the version of the newest request: it is applied
    turn: int = 0  # counts the requests: only the newest is answered, since earlier connections are dead
    rejected: int | None = None  # how many updates were rejected before this one
    refused: str = ""  # the version after which it asked with an older one


class Delivery:
    """The subscriptions of one epoch, by the scope of their counters. `directory` is the epoch's, `number` its own."""

    def __init__(self, form: PushForm, directory: str, number: int) -> None:
        self._form = form
        self._epoch = directory, number
        self._offers: dict[str, _Offer] = {}
        if form.listeners is not None:
            self._offers[subscriptions.LISTENERS] = _Offer()
        self._offers |= {subscriptions.scope_of(name): _Offer() for name in form.secrets}
        self._contents: dict[str, Content] = {}
        self._rejected: Mapping[str, int] | None = None  # counts after the last push, if all of it was applied
        self._changed = asyncio.Condition()
        self._unsent: set[str] = set()  # of the push under way
        self._all_sent = asyncio.Event()

    @property
    def scopes(self) -> Collection[str]:
        """The scopes of the counters of its subscriptions."""
        return self._offers.keys()

    @property
    def refused(self) -> Sequence[Subscription]:
        """The subscriptions whose newest content it has refused, as its requests tell, later than its counters."""
        refused = [scope for scope, each in self._offers.items() if each.version and each.refused == each.version]
        return [subscriptions.subscription(scope, rejected=1) for scope in refused]

    @property
    def drains(self) -> bool:
        """Whether connections of a changed certificate end, by the proxy's own deadline."""
        return self._form.listeners is not None

    # Content

    def offer(self, numbers: Mapping[str, int], contents: Mapping[str, bytes], *, again: bool = False) -> None:
        """Offer these files, by path: their descriptors in the epoch and their contents. `again`: even if unchanged."""
        known = self._contents
        self._contents = {
            path: found if (found := known.get(path)) is not None and found.data is data else _content(data)
            for path, data in contents.items()
        }
        for scope, text in self._texts(numbers).items():
            offer = self._offers[scope]
            if again or text != offer.text:
                offer.text, offer.version, offer.rejected = text, secrets.token_hex(8), None

    def assume(self, numbers: Mapping[str, int], contents: Mapping[str, bytes]) -> None:
        """Record what an earlier agent delivered, so that only changes are offered."""
        self._contents = {path: _content(data) for path, data in contents.items()}
        for scope, text in self._texts(numbers).items():
            self._offers[scope].text = text

    def _texts(self, numbers: Mapping[str, int]) -> dict[str, str]:
        directory, number = self._epoch
        templates = {subscriptions.scope_of(name): template for name, template in self._form.secrets.items()}
        if self._form.listeners is not None:
            templates[subscriptions.LISTENERS] = self._form.listeners
        return {
            scope: template.fill(directory, number, numbers, contents=self._contents)
            for scope, template in templates.items()
        }

    # Requests

    async def answer(self, request: Request) -> Response | None:
        """Answer a discovery request once there is something new for it; None for another kind of request."""
        scope = _scope(request)
        offer = self._offers.get(scope)
        if offer is None:
            return None
        has = offer.acknowledged = str(_body(request).get("version_info", ""))
        turn = offer.turn = offer.turn + 1
        if has != offer.sent:
            offer.refused = offer.sent
        async with self._changed:
            self._changed.notify_all()
            await self._changed.wait_for(lambda: offer.turn != turn or offer.version not in {"", has, offer.sent})
        if offer.turn != turn:
            return Response(503, b"asked again\n")
        offer.sent = offer.version
        self._unsent.discard(scope)
        if not self._unsent:
            self._all_sent.set()
        head = json.dumps({"version_info": offer.version, "type_url": _TYPES[request.path]})[:-1]
        return Response(200, f'{head}, "resources": [{offer.text}]}}'.encode(), _HEADERS)

    # A push

    async def push(
        self, admin: Admin, numbers: Mapping[str, int], contents: Mapping[str, bytes], *, again: bool = False
    ) -> None:
        """Offer files to the running proxy and return when it has applied them.

        Raises `PushRefusedError` if it refuses them, `MachineError` if it does not respond; the caller limits the time.
        """
        before = self._rejected
        if before is None:
            before = _rejected(await admin.deliveries(self._offers))
        self._rejected = None
        self.offer(numbers, contents, again=again)
        awaited = {scope: offer for scope, offer in self._offers.items() if offer.version not in {"", offer.sent}}
        for scope, offer in awaited.items():
            offer.rejected = before.get(scope)
        self._rejected = {**before, **await self._applied(admin, awaited)}

    async def _applied(self, admin: Admin, awaited: dict[str, _Offer]) -> Mapping[str, int]:
        """Return the counts of rejected updates once all of `awaited` are applied. Raises as `push`."""
        rejected: dict[str, int] = {}
        if awaited:
            await self._send(awaited)
            await asyncio.sleep(_FIRST)
        while awaited:
            found = await admin.deliveries(awaited)
            rejected |= _rejected(found)
            for scope in tuple(awaited):
                offer, now = awaited[scope], found.get(scope)
                if offer.version in {offer.acknowledged, None if now is None else now.version}:
                    del awaited[scope]
                elif _is_refused(offer, now):
                    raise PushRefusedError(scope)
            if awaited:
                await asyncio.sleep(_INTERVAL)
        return rejected

    async def _send(self, scopes: Collection[str]) -> None:
        """Answer the waiting requests, and wait for those that are not made yet, for a moment."""
        self._unsent = {*scopes}
        self._all_sent.clear()
        async with self._changed:
            self._changed.notify_all()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_sent.wait(), _UNSENT)


def _rejected(found: Mapping[str, Delivered]) -> dict[str, int]:
    return {scope: each.rejected for scope, each in found.items()}


def _is_refused(offer: _Offer, now: Delivered | None) -> bool:
    if offer.refused == offer.version:
        return True
    return now is not None and offer.rejected is not None and now.rejected > offer.rejected


def _content(data: bytes) -> Content:
    return Content(data, hashlib.sha256(data).hexdigest())


def _scope(request: Request) -> str:
    """Return the scope of a request's subscription; empty if it is another kind of request."""
    if request.path == _LISTENERS:
        return subscriptions.LISTENERS
    if request.path != _SECRETS:
        return ""
    names = _body(request).get("resource_names")
    name = names[0] if isinstance(names, list) and names else ""
    return subscriptions.scope_of(str(name)) if str(name).startswith(SECRET) else ""


def _body(request: Request) -> dict[str, object]:
    try:
        found = json.loads(request.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
