"""Certificate chains, leaves, keys and CA bundles, and whether they fit each other.

Trust is not decided here but by the connecting client.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self
from weakref import WeakValueDictionary

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import (
    Certificate,
    DNSName,
    ExtensionNotFound,
    GeneralName,
    IPAddress,
    RFC822Name,
    SubjectAlternativeName,
    UniformResourceIdentifier,
)

from agent.certificates.facts import CertificateFacts, extensions_of, issued_by
from agent.certificates.findings import Fault, Unusable
from agent.certificates.pem import PemFile, PrivateKey

_NIST_NAMES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


@dataclass(frozen=True, slots=True)
class Leaf:
    """The facts of a certificate that appear in logs, metrics and status.

    Names have a prefix for their kind: "DNS:a.example", "IP:192.0.2.1", "URI:spiffe://…"; there are none if the
    extension cannot be parsed. Dates are aware, UTC. `fingerprint` is SHA-256 over the DER, lower-case hex.

    For the leaf of a chain the dates bound the validity of the entire chain, since clients reject it outside of that:
    `begins_by` and `ends_by` name the issuer that sets the date, and are empty if the leaf itself does. `issuers` are
    the fingerprints of the certificates sent after the leaf, in order.
    """

    subject: str
    names: tuple[str, ...]
    issuer: str
    serial: int
    not_before: datetime
    not_after: datetime
    key_type: str
    fingerprint: str
    begins_by: str = ""
    ends_by: str = ""
    issuers: tuple[str, ...] = ()

    @classmethod
    def of(cls, certificate: Certificate) -> Self:
        """Extract the facts. Raises `ValueError` or `TypeError` if an inner field is damaged."""
        # cryptography issues a Python warning for a country code of three letters; a supervisor has no use for it.
        with warnings.catch_warnings(action="ignore"):
            try:
                return cls(
                    subject=certificate.subject.rfc4514_string(),
                    names=tuple(_names(certificate)),
                    issuer=certificate.issuer.rfc4514_string(),
                    serial=certificate.serial_number,
                    not_before=certificate.not_valid_before_utc,
                    not_after=certificate.not_valid_after_utc,
                    key_type=_key_type(certificate),
                    fingerprint=certificate.fingerprint(SHA256()).hex(),
                )
            except KeyError as error:  # cryptography before 50 maps each string's ASN.1 tag through an enumeration
                raise ValueError(f"a name in it is a string of the unknown ASN.1 type {error}") from error

    @property
    def spiffe_id(self) -> str | None:
        """The SPIFFE ID: the only URI name that an X.509-SVID may have (X509-SVID, section 2)."""
        uris = (name.removeprefix("URI:") for name in self.names)
        return next((uri for uri in uris if uri.startswith("spiffe://")), None)

    @property
    def serial_hex(self) -> str:
        """The serial number as Envoy and openssl print it, in full bytes: "0abc"."""
        return _hex(self.serial)

    def within(self, issuers: Iterable[Certificate]) -> "Leaf":
        """Return the leaf with its dates bounded by those of its `issuers`."""
        bounded = self
        for issuer in issuers:
            name = f"{issuer.subject.rfc4514_string()}, serial {_hex(issuer.serial_number)}"
            if issuer.not_valid_before_utc > bounded.not_before:
                bounded = replace(bounded, not_before=issuer.not_valid_before_utc, begins_by=name)
            if issuer.not_valid_after_utc < bounded.not_after:
                bounded = replace(bounded, not_after=issuer.not_valid_after_utc, ends_by=name)
        return bounded

    def valid_at(self, now: datetime) -> bool:
        """Whether `now` is between both dates, inclusive (RFC 5280, 4.1.2.5)."""
        return self.not_before <= now <= self.not_after

    @property
    def dns_name(self) -> str | None:
        """The first DNS name that a client could ask for, without a wildcard; None if there is none."""
        return next((name for name in self.dns_names if "*" not in name), None)

    @property
    def dns_names(self) -> tuple[str, ...]:
        """Its DNS names."""
        return tuple(name.removeprefix("DNS:") for name in self.names if name.startswith("DNS:"))

    def stands_in_for(self, other: "Leaf") -> bool:
        """Whether this leaf can replace `other` for clients: it has its names and its key type."""
        if self.key_type.split()[0] != other.key_type.split()[0]:
            return False
        return set(other.names) <= set(self.names) if other.names else other.subject == self.subject

    @property
    def old_from(self) -> datetime:
        """The start of the last tenth of the leaf's lifetime."""
        return self.not_after - (self.not_after - self.not_before) / 10

    def soon_to_expire(self, now: datetime) -> bool:
        """Whether `now` is in the last tenth of the leaf's lifetime."""
        return now > self.old_from


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Chain:
    """A file of certificates, the first of which is the leaf.

    `in_order`: each certificate after the first issued the one before it. Equal chains are one object for as long as
    one of them is kept.
    """

    path: str
    certificates: tuple[CertificateFacts, ...]
    leaf: Leaf
    in_order: bool

    @classmethod
    def of(cls, path: str, pem: PemFile) -> "Chain":
        """Build a chain. Raises `Unusable` without a certificate, or if a needed one is damaged."""
        if not pem.certificates:
            raise Unusable(path, Fault.INCOMPLETE, "it holds no certificate", "write the leaf and its issuers into it")
        certificates = _facts(pem)
        known = _kept.get((path, certificates))
        return known if known is not None else _kept.setdefault((path, certificates), _chain(path, certificates, pem))


_kept: WeakValueDictionary[tuple[str, tuple[CertificateFacts, ...]], Chain] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Key:
    """A file with a private key."""

    path: str
    private: PrivateKey

    @classmethod
    def of(cls, path: str, pem: PemFile) -> Self:
        """Build a key from a file. Raises `Unusable` if it holds none."""
        if pem.key is None:
            raise Unusable(path, Fault.INCOMPLETE, "it holds no private key", "write the key into it")
        return cls(path, pem.key)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A file of certificate authorities, in no particular order."""

    path: str
    certificates: tuple[CertificateFacts, ...]

    @classmethod
    def of(cls, path: str, pem: PemFile) -> Self:
        """Build a bundle from a file. Raises `Unusable` if it holds no certificate."""
        if not pem.certificates:
            raise Unusable(path, Fault.INCOMPLETE, "it holds no certificate", "write the authorities into it")
        return cls(path, _facts(pem))

    def expired(self, now: datetime) -> tuple[CertificateFacts, ...]:
        """Return the expired authorities."""
        return tuple(each for each in self.certificates if each.not_valid_after_utc < now)

    def anchors(self, chain: Chain, now: datetime) -> bool:
        """Whether an authority in the bundle, valid now, is in `chain` or issued part of it."""
        return any(
            authority == certificate or certificate.issued_by(authority)
            for authority in self.certificates
            if authority.not_valid_before_utc <= now <= authority.not_valid_after_utc
            for certificate in chain.certificates
        )


def _chain(path: str, certificates: tuple[CertificateFacts, ...], pem: PemFile) -> Chain:
    path_up = _path_up(pem.certificates)
    try:
        leaf = _leaf_of(pem.certificates, path_up)
    except (ValueError, TypeError, KeyError) as error:
        why = "its first certificate, or one that issued it, does not parse"
        raise Unusable(path, Fault.UNPARSABLE, why, "write it again from its source") from error
    return Chain(path, certificates, leaf, len(path_up) == len(certificates))


def _facts(pem: PemFile) -> tuple[CertificateFacts, ...]:
    return tuple(map(CertificateFacts.of, pem.certificates))


def require_fit(chain: Chain, key: Key) -> None:
    """Raise `Unusable` unless the key fits the leaf; an encrypted key counts as fitting."""
    if key.private.encrypted or key.private.public == chain.certificates[0].public_key:
        return
    leaf = f"the leaf in {chain.path} (serial {chain.leaf.serial_hex})"
    others = (certificate.public_key for certificate in chain.certificates[1:])
    if key.private.public is not None and key.private.public in others:
        why = f"{key.path} fits another certificate in it, not {leaf}: the chain is out of order"
        raise Unusable(chain.path, Fault.MISMATCH, why, "put the certificate of the key first")
    raise Unusable(key.path, Fault.MISMATCH, f"it does not fit {leaf}", "write the key that belongs to it")


def require_valid(chain: Chain, now: datetime) -> None:
    """Raise `Unusable` if the chain is not valid now: EXPIRED, or NOT_YET_VALID with the start."""
    leaf = chain.leaf
    if leaf.not_after < now:
        why = f"{_bound(leaf, leaf.ends_by)} expired at {leaf.not_after.isoformat()}"
        remedy = "write the leaf with its issuer's new certificate" if leaf.ends_by else "write a renewed certificate"
        raise Unusable(chain.path, Fault.EXPIRED, why, remedy)
    if leaf.not_before > now:
        why = f"{_bound(leaf, leaf.begins_by)} is not valid before {leaf.not_before.isoformat()}"
        remedy = "wait until then, or correct the clock"
        raise Unusable(chain.path, Fault.NOT_YET_VALID, why, remedy, usable_from=leaf.not_before)


def leaf_of_chain(certificates: tuple[Certificate, ...]) -> Leaf:
    """Return the leaf of a chain. Raises `ValueError` or `TypeError` as `Leaf.of` does."""
    return _leaf_of(certificates, _path_up(certificates))


def _leaf_of(certificates: tuple[Certificate, ...], path_up: list[Certificate]) -> Leaf:
    """Return the leaf bounded by its issuers, except a root: clients use their own copy of it."""
    bounded = Leaf.of(path_up[0]).within(each for each in path_up[1:] if each.subject != each.issuer)
    return replace(bounded, issuers=tuple(each.fingerprint(SHA256()).hex() for each in certificates[1:]))


def _bound(leaf: Leaf, issuer: str) -> str:
    """Name the certificate that bounds a chain: an issuer, or else the leaf."""
    return f"the issuer of its leaf ({issuer})" if issuer else f"its leaf (serial {leaf.serial_hex})"


def _path_up(certificates: tuple[Certificate, ...]) -> list[Certificate]:
    """Return the leaf and its issuers, up to the first that did not issue the one before it."""
    path = [certificates[0]]
    for issuer in certificates[1:]:
        if not issued_by(path[-1], issuer):
            break
        path.append(issuer)
    return path


def _hex(serial: int) -> str:
    digits = f"{serial:x}"
    return digits.zfill(len(digits) + len(digits) % 2)


def _names(certificate: Certificate) -> Iterator[str]:
    extensions = extensions_of(certificate)
    try:
        names: Iterable[GeneralName] = (
            extensions.get_extension_for_class(SubjectAlternativeName).value if extensions else ()
        )
    except ExtensionNotFound:
        return
    for name in names:
        match name:
            case DNSName():
                yield f"DNS:{name.value}"
            case UniformResourceIdentifier():
                yield f"URI:{name.value}"
            case IPAddress():
                yield f"IP:{name.value}"
            case RFC822Name():
                yield f"email:{name.value}"


def _key_type(certificate: Certificate) -> str:
    try:
        key = certificate.public_key()
    except UnsupportedAlgorithm:
        return "unknown"
    match key:
        case rsa.RSAPublicKey():
            return f"RSA {key.key_size}"
        case ec.EllipticCurvePublicKey():
            return f"ECDSA {_NIST_NAMES.get(key.curve.name, key.curve.name)}"
        case _:
            return type(key).__name__.removesuffix("PublicKey")  # Ed25519, Ed448, MLDSA65 …
