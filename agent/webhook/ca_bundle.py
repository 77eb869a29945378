"""Which authorities a webhook configuration holds: the newest, and for one rotation those before them."""

import ssl
from collections.abc import Iterable, Sequence
from datetime import datetime

from agent.certificates.facts import CertificateFacts
from agent.certificates.findings import Fault, Unusable
from agent.certificates.pem import parse
from agent.certificates.references import Role
from agent.certificates.x509 import Bundle

Authorities = Sequence[CertificateFacts]


def authorities(path: str, content: bytes) -> Authorities:
    """Parse a file of authorities. Raises `Unusable`."""
    return Bundle.of(path, parse(path, content, Role.BUNDLE)).certificates


def registered(content: bytes) -> Authorities:
    """Parse the bundle of a webhook configuration; one that does not parse holds none."""
    try:
        return authorities("", content)
    except Unusable:
        return ()


def renewed(path: str, own: Authorities, present: Authorities, previous: Authorities, now: datetime) -> bytes | None:
    """Return the bundle to register as PEM; None if `present` may stay.

    `own` is in the file at `path`, and `previous` was there before; other replicas may still serve certificates of the
    latter. Expired authorities are dropped. Raises `Unusable` if all of `own` have expired.
    """
    valid = [*_valid(own, now)]
    if not valid:
        raise Unusable(path, Fault.EXPIRED, "its authorities have expired", "write the ones that issue now")
    if {*valid} <= {*present} and len([*_valid(present, now)]) == len(present):
        return None
    older = [each for each in dict.fromkeys(_valid((*previous, *present), now)) if each not in valid]
    return _pem((*valid, *older[: len(previous or own)]))


def _valid(certificates: Iterable[CertificateFacts], now: datetime) -> Iterable[CertificateFacts]:
    return (each for each in certificates if each.not_valid_after_utc >= now)


def _pem(certificates: Iterable[CertificateFacts]) -> bytes:
    return "".join(ssl.DER_cert_to_PEM_cert(each.der) for each in certificates).encode("ascii")
