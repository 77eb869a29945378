"""Parses a PEM file into certificates and a private key.

The format is RFC 7468, with RFC 1421 headers for old encrypted keys. Blocks are parsed as in BoringSSL
(`PEM_read_bio`), so the first block here is the first in Envoy: a BEGIN line starts in the first column, text between
blocks is skipped, lines end with a line feed, an empty line ends a header. Each role uses the blocks that Envoy uses
for it: a chain its certificates, a key the first key and nothing after it, a bundle also trusted certificates and
revocation lists. The README lists where this parser is stricter on purpose.
"""

import base64
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.dsa import DSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from cryptography.x509 import Certificate, InvalidVersion, load_der_x509_certificate, load_der_x509_crl

from agent.certificates.findings import Fault, Unusable
from agent.certificates.references import Role

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
_TRUSTED, _CRL = "TRUSTED CERTIFICATE", "X509 CRL"
_PKCS8, _ENCRYPTED = "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"
_ALGORITHMS = {
    "RSA PRIVATE KEY": RSAPrivateKey,
    "EC PRIVATE KEY": EllipticCurvePrivateKey,
    "DSA PRIVATE KEY": DSAPrivateKey,
}
_KEY_LABELS = frozenset({_PKCS8, _ENCRYPTED, *_ALGORITHMS})
_MOST = 4096  # certificates in one file; the largest CA bundles have some hundreds
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WIDE_BEGINS = ("-----BEGIN ".encode("utf-16-le"), "-----BEGIN ".encode("utf-16-be"))
"""How a block begins in UTF-16. Made here: Python imports a codec at its first use, and remembers if it cannot."""
_BLANKS = bytes(range(33))  # stripped from the end of a line by BoringSSL
_LINE = 253  # bytes that BoringSSL reads as one line at most
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_WRITE_WHOLE = "write the whole file, best under another name and then renamed"
_WRITE_ANEW = "write it again from its source"
_AS_ASCII = "save it as plain ASCII"


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """The facts about a private key that can be stored without the key itself.

    `public` is its public half as DER SubjectPublicKeyInfo; None for an encrypted key, and for an algorithm or curve
    that the cryptography library does not support.
    """

    public: bytes | None
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class PemFile:
    """The content of a PEM file, certificates in file order. Both parts may be absent."""

    certificates: tuple[Certificate, ...]
    key: PrivateKey | None


@dataclass(frozen=True, slots=True)
class _Block:
    label: str
    header: bytes
    body: bytes


def parse(path: str, content: bytes, role: Role | None = None) -> PemFile:
    """Parse a file for a role, or all it holds without one; `path` is only for messages.

    Raises `Unusable`, and nothing else, whatever the bytes: EMPTY, INCOMPLETE for a block that ends too early, or
    UNPARSABLE.
    """
    if not content.strip():
        raise Unusable(path, Fault.EMPTY, "it is empty", "write the PEM into it")
    _refuse_hidden(path, content)
    blocks = list(_until_key(path, content) if role is Role.KEY else _blocks(path, content))
    if not blocks:
        raise _without_pem(path, content)
    # cryptography issues a Python warning for an odd serial number or country code; a supervisor has no use for it.
    with warnings.catch_warnings(action="ignore"):
        certificates = () if role is Role.KEY else tuple(_certificates(path, blocks, role))
        key = None if role in {Role.CHAIN, Role.BUNDLE} else _first_key(path, blocks)
    return PemFile(certificates, key)


def _until_key(path: str, content: bytes) -> Iterator[_Block]:
    """Yield the blocks up to the first key; proxies ignore those after it."""
    for block in _blocks(path, content):
        yield block
        if block.label in _KEY_LABELS:
            return


def _certificates(path: str, blocks: list[_Block], role: Role | None) -> Iterator[Certificate]:
    """Yield the certificates for a role.

    OpenSSL's trusted certificates count only as the first of a chain, or in a bundle.
    """
    count = 0
    for block in blocks:
        if block.label == _CRL and role is Role.BUNDLE:
            _require_list(path, block)
        takes_trusted = role is Role.BUNDLE or not count
        if block.label not in _CERTIFICATE_LABELS and not (block.label == _TRUSTED and takes_trusted):
            continue
        yield _certificate(path, block, role)
        count += 1
        if count > _MOST:
            why = f"it holds more than {_MOST} certificates"
            raise Unusable(path, Fault.UNPARSABLE, why, "keep only the ones needed")


def _first_key(path: str, blocks: list[_Block]) -> PrivateKey | None:
    key = next((block for block in blocks if block.label in _KEY_LABELS), None)
    if key is None and (other := next((block for block in blocks if block.label.endswith(_PKCS8)), None)):
        raise _unreadable_key(path, other)
    return None if key is None else _private_key(path, key)


def public_half(key: PublicKeyTypes) -> bytes:
    """Return the encoding by which public keys are compared: DER SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _refuse_hidden(path: str, content: bytes) -> None:
    """Raise `Unusable` if a defect hides the first block: the next one would pass for it."""
    if any(begin in content for begin in _WIDE_BEGINS):
        raise Unusable(path, Fault.UNPARSABLE, "it is UTF-16", _AS_ASCII)
    if content.startswith(_BYTE_ORDER_MARK + _BEGIN):
        raise Unusable(path, Fault.UNPARSABLE, "a byte order mark hides its first line", _AS_ASCII)
    if content.startswith(b"\0") and content.lstrip(b"\0").startswith(_BEGIN):
        raise Unusable(path, Fault.UNPARSABLE, "NUL bytes hide its first line", _WRITE_ANEW)
    if content[:1].isspace() and content.lstrip(b" \t").startswith(_BEGIN):
        why = "its first BEGIN line does not start in the first column"
        raise Unusable(path, Fault.UNPARSABLE, why, "write it without spaces in front")


def _without_pem(path: str, content: bytes) -> Unusable:
    if content.startswith(b"\x30") and content[1:2] >= b"\x80":  # an ASN.1 SEQUENCE with a long length
        why, remedy = "it is binary (DER or PKCS#12), not PEM", "convert it with openssl x509, pkey or pkcs12"
    else:
        why, remedy = "there is no PEM in it", "write lines from -----BEGIN to -----END, starting in the first column"
    return Unusable(path, Fault.UNPARSABLE, why, remedy)


def _lines(content: bytes) -> Iterator[bytes]:
    """Yield the lines as BoringSSL splits them."""
    for line in content.removesuffix(b"\n").split(b"\n"):
        if len(line) < _LINE:
            yield line.rstrip(_BLANKS)
            continue
        whole = line + b"\n"
        for start in range(0, len(whole), _LINE):
            yield whole[start : start + _LINE].rstrip(_BLANKS)


def _blocks(path: str, content: bytes) -> Iterator[_Block]:
    lines = _lines(content)
    for line in lines:
        if (label := _begun(path, line)) is not None:
            yield _block(path, label, lines)


def _begun(path: str, line: bytes) -> str | None:
    """Return the label if `line` begins a block, None if it is text between blocks."""
    if not line.startswith(_BEGIN):
        return None
    if _END in line or b"\r" in line:
        why, remedy = "its line breaks are missing", "put BEGIN, base64 and END on lines of their own"
        if b"\r" in line:
            why, remedy = "its lines end with carriage returns alone", "save it with line feeds"
        raise Unusable(path, Fault.UNPARSABLE, why, remedy)
    if not line.endswith(_DASHES):
        raise Unusable(path, Fault.INCOMPLETE, "it ends, or is damaged, within a BEGIN line", _WRITE_WHOLE)
    return line.removeprefix(_BEGIN).removesuffix(_DASHES).decode("latin-1")


def _block(path: str, label: str, lines: Iterator[bytes]) -> _Block:
    """Parse the rest of a block; lines before an empty one, if there is one, are its header."""
    header, body = b"", list[bytes]()
    end = None
    for line in lines:
        if line.startswith(_END):
            end = line
            break
        if not line and not header:
            header, body = b"\n".join(body) or b"\n", []
        elif line.startswith(_BEGIN):
            break
        else:
            body.append(line)
    if end is None:
        raise Unusable(path, Fault.INCOMPLETE, f"{_named(label)} ends too early", _WRITE_WHOLE)
    if header.strip() and b":" not in header:
        why = f"there is an empty line in {_named(label)}"
        raise Unusable(path, Fault.UNPARSABLE, why, "remove that line")
    if end != _END + label.encode("latin-1") + _DASHES:
        why = f"{_named(label)} has an END line of another kind"
        raise Unusable(path, Fault.UNPARSABLE, why, _WRITE_WHOLE)
    joined = b"".join(body).translate(None, b" \t\r\n")
    if len(joined) % 4 or not _BASE64.fullmatch(joined):
        damage = "there are NUL bytes in" if b"\0" in joined else "there is damaged base64 in"
        raise Unusable(path, Fault.UNPARSABLE, f"{damage} {_named(label)}", _WRITE_ANEW)
    return _Block(label, header.strip(), base64.b64decode(joined))


def _named(label: str) -> str:
    """Name a block for a message; an unknown label is not quoted, as it may be part of a key."""
    return f"its block {label}" if label in _KNOWN_LABELS else "a block of an unknown kind in it"


def _first_value(der: bytes) -> bytes:
    """Return the first DER value without trailing bytes, which BoringSSL ignores."""
    if len(der) < 2 or der[1] < 0x80:
        return der
    size = der[1] & 0x7F
    return der[: 2 + size + int.from_bytes(der[2 : 2 + size])]


def _certificate(path: str, block: _Block, role: Role | None) -> Certificate:
    if block.header:
        why = f"there is a header in {_named(block.label)}, which no proxy accepts"
        raise Unusable(path, Fault.UNPARSABLE, why, "remove its lines with a colon")
    may_go_on = role is Role.BUNDLE or block.label == _TRUSTED
    try:
        return load_der_x509_certificate(_first_value(block.body) if may_go_on else block.body)
    except (ValueError, InvalidVersion) as error:
        why = "a certificate in it does not parse"  # without the library's message, which may quote the content
        raise Unusable(path, Fault.UNPARSABLE, why, _WRITE_ANEW) from error


def _require_list(path: str, block: _Block) -> None:
    try:
        load_der_x509_crl(block.body)
    except (ValueError, InvalidVersion) as error:
        why = "a revocation list in it does not parse"
        raise Unusable(path, Fault.UNPARSABLE, why, _WRITE_ANEW) from error


def _private_key(path: str, block: _Block) -> PrivateKey:
    if block.label == _ENCRYPTED or block.header.startswith(b"Proc-Type: 4,ENCRYPTED"):
        return PrivateKey(None, encrypted=True)
    if block.header or (block.label == _PKCS8 and not _is_pkcs8(block.body)):
        raise _unreadable_key(path, block)
    try:
        # The library's own RSA check tests primality: 47 ms for 2048 bits, 320 ms for 4096.
        key = load_der_private_key(_first_value(block.body), None, unsafe_skip_rsa_key_validation=True)
    except UnsupportedAlgorithm:
        return PrivateKey(None)
    except (ValueError, TypeError, InternalError) as error:  # InternalError for an Ed25519 key of 31 bytes
        raise _unreadable_key(path, block) from error
    if not _is_as_called(key, block.label) or (isinstance(key, RSAPrivateKey) and not _consistent(key)):
        raise _unreadable_key(path, block)
    return PrivateKey(public_half(key.public_key()))


def _is_as_called(key: PrivateKeyTypes, label: str) -> bool:
    return label == _PKCS8 or isinstance(key, _ALGORITHMS[label])


def _is_pkcs8(der: bytes) -> bool:
    """Whether a sequence follows the version, as in PKCS#8 but not in per-algorithm formats."""
    start = 2 + (der[1] & 0x7F if len(der) > 1 and der[1] >= 0x80 else 0)
    return der[start : start + 2] == b"\x02\x01" and der[start + 3 : start + 4] == b"\x30"


def _unreadable_key(path: str, block: _Block) -> Unusable:
    # Without the library's message: nothing derived from a damaged key may be logged.
    why = f"{_named(block.label)} is not a readable private key"
    return Unusable(path, Fault.UNPARSABLE, why, _WRITE_ANEW)


def _consistent(key: RSAPrivateKey) -> bool:
    """Whether the key's numbers are consistent: BoringSSL's RSA_check_key, without primality."""
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
