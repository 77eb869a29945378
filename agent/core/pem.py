"""The bytes of one PEM file, as certificates and a private key (RFC 7468, and RFC 1421 headers for old encrypted keys).

Blocks are found the way BoringSSL finds them (`PEM_read_bio`): a BEGIN line starts in the first column, text between
blocks is skipped, so what is first here is first in Envoy. Blocks of other kinds (EC PARAMETERS, CRLs) are passed over.
"""

import base64
import binascii
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from cryptography.x509 import Certificate, InvalidVersion, load_der_x509_certificate

from agent.core.findings import Fault, Unusable

_BEGIN, _END, _DASHES = b"-----BEGIN ", b"-----END ", b"-----"
_KNOWN_LABELS = frozenset(
    {
        "CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE", "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST",
        "X509 CRL", "PKCS7", "CMS", "EC PARAMETERS", "DH PARAMETERS", "DSA PARAMETERS", "PUBLIC KEY", "RSA PUBLIC KEY",
        "PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY",
        "ANY PRIVATE KEY", "OPENSSH PRIVATE KEY", "SSH2 ENCRYPTED PRIVATE KEY",
    }
)  # fmt: skip
_CERTIFICATE_LABELS = frozenset({"CERTIFICATE", "X509 CERTIFICATE"})
_KEY_LABEL = "PRIVATE KEY"
_MOST = 4096  # certificates in one file; the largest bundles of authorities have some hundreds
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WRITE_WHOLE = "write the whole file, best under another name and then renamed"


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """What may be known of a private key without keeping it.

    `public` is its public half as DER SubjectPublicKeyInfo; None for an encrypted key, and for an algorithm or curve
    that the cryptography library does not know.
    """

    public: bytes | None
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class PemFile:
    """What a file holds, certificates in the order of the file. Both parts may be absent."""

    certificates: tuple[Certificate, ...]
    key: PrivateKey | None


@dataclass(frozen=True, slots=True)
class _Block:
    label: str
    der: bytes
    encrypted: bool


def parse(path: str, content: bytes) -> PemFile:
    """Read every certificate and the private key in `content`; `path` is only for the message.

    Raises Unusable, and nothing else, whatever the bytes: EMPTY, INCOMPLETE for a block that ends too early, or
    UNPARSABLE.
    """
    if not content.strip():
        raise Unusable(path, Fault.EMPTY, "it is empty", "write the PEM into it")
    blocks = tuple(_blocks(path, content))
    if not blocks:
        raise _without_pem(path, content)
    # An odd serial number or country code is a Python warning in cryptography; nobody reads those in a supervisor.
    with warnings.catch_warnings(action="ignore"):
        found = [block for block in blocks if block.label in _CERTIFICATE_LABELS]
        if len(found) > _MOST:
            why = f"it holds {len(found)} certificates, more than {_MOST}"
            raise Unusable(path, Fault.UNPARSABLE, why, "leave those that are meant")
        certificates = tuple(_certificate(path, block) for block in found)
        keys = tuple(_private_key(path, block) for block in blocks if block.label.endswith(_KEY_LABEL))
    if len(keys) > 1:
        raise Unusable(path, Fault.UNPARSABLE, f"it holds {len(keys)} private keys", "leave the one that is meant")
    return PemFile(certificates, keys[0] if keys else None)


def public_half(key: PublicKeyTypes) -> bytes:
    """Return the one encoding by which public keys are compared here: DER SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _without_pem(path: str, content: bytes) -> Unusable:
    if content.startswith(b"\x30") and content[1:2] >= b"\x80":  # an ASN.1 SEQUENCE with a long length
        why, remedy = "it is binary (DER or PKCS#12), not PEM", "convert it with openssl x509, pkey or pkcs12"
    elif content.startswith(_BYTE_ORDER_MARK):
        why, remedy = "a byte order mark hides its first line", "save it as plain ASCII"
    else:
        why, remedy = "there is no PEM in it", "write lines from -----BEGIN to -----END, starting in the first column"
    return Unusable(path, Fault.UNPARSABLE, why, remedy)


def _blocks(path: str, content: bytes) -> Iterator[_Block]:
    label: str | None = None
    lines: list[bytes] = []
    for line in map(bytes.rstrip, content.splitlines()):
        if label is None:
            label, lines = _begun(path, line), []
        elif line.startswith(_END):
            yield _block(path, label, line, lines)
            label = None
        elif line.startswith(_DASHES):
            break
        else:
            lines.append(line)
    if label is not None:
        why = f"{_named(label)} ends too early"
        raise Unusable(path, Fault.INCOMPLETE, why, _WRITE_WHOLE)


def _begun(path: str, line: bytes) -> str | None:
    """Return the label if a block begins with `line`, None if it is text between blocks."""
    if not line.startswith(_BEGIN):
        return None
    if _END in line:
        remedy = "write it in lines: BEGIN, base64 and END each begin one"
        raise Unusable(path, Fault.UNPARSABLE, "its line breaks are missing", remedy)
    if not line.endswith(_DASHES):
        raise Unusable(path, Fault.INCOMPLETE, "it ends, or is damaged, within a BEGIN line", _WRITE_WHOLE)
    return line.removeprefix(_BEGIN).removesuffix(_DASHES).decode("latin-1")


def _block(path: str, label: str, end: bytes, lines: list[bytes]) -> _Block:
    if end != _END + label.encode("latin-1") + _DASHES:
        why = f"{_named(label)} is closed by another END line"
        raise Unusable(path, Fault.UNPARSABLE, why, _WRITE_WHOLE)
    # Base64 has no colon, RFC 1421 headers ("Proc-Type: 4,ENCRYPTED") always do.
    headers = b"".join(line for line in lines if b":" in line)
    body = b"".join(line.strip() for line in lines if b":" not in line)
    try:
        der = base64.b64decode(body, validate=True)
    except binascii.Error as error:
        why = f"the base64 in {_named(label)} is damaged"
        raise Unusable(path, Fault.UNPARSABLE, why, "write it anew from its source") from error
    return _Block(label, der, label == "ENCRYPTED PRIVATE KEY" or b"ENCRYPTED" in headers)


def _named(label: str) -> str:
    """A block by its label, if that is one of a closed set: any other text may be part of a key."""
    return f"its block {label}" if label in _KNOWN_LABELS else "a block of an unknown kind in it"


def _certificate(path: str, block: _Block) -> Certificate:
    try:
        return load_der_x509_certificate(block.der)
    except (ValueError, InvalidVersion) as error:
        why = "a certificate in it does not parse"  # the library's words are left out: they may quote the content
        raise Unusable(path, Fault.UNPARSABLE, why, "write it anew from its source") from error


def _private_key(path: str, block: _Block) -> PrivateKey:
    if block.encrypted:
        return PrivateKey(None, encrypted=True)
    try:
        # The library's own check of an RSA key tests for primes: 47 ms for 2048 bits, 320 ms for 4096.
        key = load_der_private_key(block.der, None, unsafe_skip_rsa_key_validation=True)
    except UnsupportedAlgorithm:
        return PrivateKey(None)
    except (ValueError, TypeError, InternalError) as error:  # the last one for an Ed25519 key of 31 bytes
        raise _unreadable_key(path, block) from error
    if isinstance(key, RSAPrivateKey) and not _consistent(key):
        raise _unreadable_key(path, block)
    return PrivateKey(public_half(key.public_key()))


def _unreadable_key(path: str, block: _Block) -> Unusable:
    # The library's words are left out: nothing derived from a damaged key belongs into a log.
    why = f"{_named(block.label)} is not a private key that can be read"
    return Unusable(path, Fault.UNPARSABLE, why, "write it anew from its source")


def _consistent(key: RSAPrivateKey) -> bool:
    """Whether the numbers of the key belong together: what BoringSSL's RSA_check_key asks, which is no primality."""
    private = key.private_numbers()
    n, e = private.public_numbers.n, private.public_numbers.e
    p, q, d = private.p, private.q, private.d
    return (
        min(p, q) > 1
        and p * q == n
        and (e * d) % (p - 1) == 1 == (e * d) % (q - 1)
        and (private.dmp1, private.dmq1) == (d % (p - 1), d % (q - 1))
        and (private.iqmp * q) % p == 1
    )
