"""Keeps TLS contexts current whose certificates or authorities come as secrets.

A response is checked, and every context that has the secret is made, in a thread; then all of them are put into use at
once. Until then, and after a bad one, the contexts of before serve.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from agent.host.offload import offload
from agent.sidecar.config.discovery import SentAuthority, SentCertificate, read_authority, read_certificate
from agent.sidecar.contexts import check_authority, check_certificate, client_context, server_context
from agent.sidecar.model import DownstreamTls, LoadedCertificate, SecretSource, Tls
from agent.sidecar.sds import Subscription
from agent.stats.writer import Writer

Use = Callable[[ssl.SSLContext], None]


class _Key(NamedTuple):
    """A certificate and an authority may have the same name."""

    source: SecretSource
    is_authority: bool


Sent = SentCertificate | SentAuthority
Secrets = Mapping[_Key, Sent]


class SecretContexts:
    """All contexts with secrets, and their subscriptions.

    `locate` returns the socket behind a cluster, or raises BadInput. `node` is the node's id and cluster.
    """

    def __init__(self, stats: Writer, node: tuple[str, str], locate: Callable[[str], Path]) -> None:
        self._stats = stats
        self._node = node
        self._locate = locate
        self._subscriptions: dict[_Key, Subscription] = {}
        self._users: dict[Tls, list[Use]] = {}
        self._secrets: dict[_Key, Sent] = {}
        self._applying = asyncio.Lock()  # two new secrets of one context: the second is added to the first
        self._unready: set[str] = set()

    def add(self, tls: Tls, use: Use) -> None:
        """Pass every context of these settings to `use`, from the first one on; raise BadInput for a bad source."""
        self._users.setdefault(tls, []).append(use)
        for key in _keys(tls):
            if key not in self._subscriptions:
                apply = partial(self._apply, key)
                path = self._locate(key.source.cluster)
                self._subscriptions[key] = Subscription(key.source, path, self._node, self._stats, apply)
                self._unready.add(_target(key))

    @property
    def unready(self) -> frozenset[str]:
        """The init targets, by Envoy's names, whose first fetch is not over."""
        return frozenset(self._unready)

    async def fetch(self) -> None:
        """Return when each secret's first fetch is over; the polls go on."""
        await asyncio.gather(*(self._first(key, each) for key, each in self._subscriptions.items()))

    async def _first(self, key: _Key, subscription: Subscription) -> None:
        await subscription.first()
        self._unready.discard(_target(key))

    def texts(self) -> dict[str, str]:
        """Return the version in use of each secret, by the name of the statistic."""
        return {f"{each.scope}version_text": each.version for each in self._subscriptions.values()}

    def filled(self, tls: Tls) -> Tls | None:
        """Return the settings with their secrets in place; None if one has not come."""
        return _filled(tls, self._secrets)

    async def close(self) -> None:
        """Stop fetching."""
        await asyncio.gather(*(each.close() for each in self._subscriptions.values()))

    async def _apply(self, key: _Key, body: bytes) -> str:
        async with self._applying:
            sent, made = await offload(len(body), self._judge, key, body)
            self._secrets[key] = sent
            for tls, context in made.items():
                for use in self._users[tls]:
                    use(context)
            return sent.version

    def _judge(self, key: _Key, body: bytes) -> tuple[Sent, dict[Tls, ssl.SSLContext]]:
        """Return the secret, and the new contexts that have it; raise BadInput if it cannot be used."""
        sent = _read(key, body)
        secrets = {**self._secrets, key: sent}
        filled = {tls: _filled(tls, secrets) for tls in self._users if key in _keys(tls)}
        return sent, {tls: _context(each) for tls, each in filled.items() if each is not None}


def _read(key: _Key, body: bytes) -> Sent:
    """Read and check a secret by itself: the others of its contexts may not have come."""
    if key.is_authority:
        authority = read_authority(body, key.source.name)
        if authority.trusted_ca is not None:
            check_authority(authority.trusted_ca)
        return authority
    sent = read_certificate(body, key.source.name)
    check_certificate(sent.certificate)
    return sent


def _keys(tls: Tls) -> list[_Key]:
    found = [_Key(each, is_authority=False) for each in tls.certificate_secrets]
    return found if tls.ca_secret is None else [*found, _Key(tls.ca_secret, is_authority=True)]


def _filled(tls: Tls, secrets: Secrets) -> Tls | None:
    certificates: list[LoadedCertificate] = []
    trusted_ca = tls.trusted_ca
    for key in _keys(tls):
        sent = secrets.get(key)
        if sent is None:
            return None
        if isinstance(sent, SentCertificate):
            certificates.append(sent.certificate)
        else:
            trusted_ca = sent.trusted_ca or trusted_ca
    return tls._replace(certificates=(*tls.certificates, *certificates), trusted_ca=trusted_ca)


def _context(tls: Tls) -> ssl.SSLContext:
    return server_context(tls) if isinstance(tls, DownstreamTls) else client_context(tls)


def _target(key: _Key) -> str:
    return f"SdsApi {key.source.name}"
