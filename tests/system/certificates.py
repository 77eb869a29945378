"""Certificates for the tests, each with its own serial number."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Protocol

from cryptography import x509

from tests.pki import Algorithm, Authority, Leaf

NAME = "proxy.test"


class Pair(Protocol):
    """A certificate and its key as files; `tests.pki.Leaf` is one."""

    @property
    def chain_pem(self) -> bytes:
        """The leaf and its issuers."""

    @property
    def key_pem(self) -> bytes:
        """The private key, unencrypted."""


@dataclass(frozen=True)
class Files:
    """Two files that are written as a pair, with any content."""

    chain_pem: bytes
    key_pem: bytes


@cache
def authority(name: str = "the tests' own") -> Authority:
    """Return the authority of that name; it is created once per session."""
    return Authority.create(name)


@dataclass
class Mint:
    """Issues leaves and records the newest one to be served."""

    issuer: Authority = field(default_factory=authority)
    issued: list[Leaf] = field(default_factory=list)
    lasts: timedelta = timedelta(days=2000, hours=12)
    """A leaf is valid from this long before now until this long after."""

    def leaf(self, *names: str, key: Algorithm = "ecdsa") -> Leaf:
        """Issue a valid leaf, which becomes the newest."""
        now = datetime.now(UTC)
        self.issued.append(self.issuer.issue(names or [NAME], key, now - self.lasts, now + self.lasts))
        return self.issued[-1]

    def spare(self) -> Leaf:
        """Issue a leaf that does not become the newest, to be damaged."""
        return self.issuer.issue([NAME])

    def expired(self) -> Leaf:
        """Issue a leaf that expired an hour ago, to be refused."""
        now = datetime.now(UTC)
        return self.issuer.issue([NAME], not_before=now - timedelta(days=2), not_after=now - timedelta(hours=1))

    @property
    def newest(self) -> Leaf:
        """The newest leaf to be served."""
        return self.issued[-1]


def serial(pair: Pair) -> int:
    """Return the serial number of the first certificate of a pair."""
    return x509.load_pem_x509_certificate(pair.chain_pem).serial_number
