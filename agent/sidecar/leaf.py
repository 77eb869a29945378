"""Reads a leaf certificate's names and key type, and checks that clients accept the key.

It parses only the DER fields (X.690) that it needs (RFC 5280, 4.1, 4.2.1.3 and 4.2.1.6). A library would cost 30 ms at
each start of a proxy.
"""

import ssl
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_ALTERNATIVE_NAME = bytes.fromhex("551d11")  # 2.5.29.17
_KEY_USAGE = bytes.fromhex("551d0f")  # 2.5.29.15
_COMMON_NAME = bytes.fromhex("550403")  # 2.5.4.3
_KEYS = {bytes.fromhex("2a864886f70d010101"): "rsa", bytes.fromhex("2a8648ce3d0201"): "ecdsa"}
_CURVES = frozenset(map(bytes.fromhex, ("2a8648ce3d030107", "2b81040022", "2b81040023")))  # P-256, P-384, P-521
_DIGITAL_SIGNATURE = 0x80
_SEQUENCE, _OID, _EXTENSIONS, _DNS_NAME = 0x30, 0x06, 0xA3, 0x82


class Leaf(NamedTuple):
    """The names and key type of a leaf certificate.

    `names` in lower case: the DNS names, else the common name. `key`: `rsa`, `ecdsa` or `other`.
    """

    names: tuple[str, ...]
    key: str


def leaf_of(text: str) -> Leaf:
    """Read the first certificate in a PEM text.

    Raises ValueError if there is none, or one that cannot be read or that clients reject.
    """
    start, end = text.find(_BEGIN), text.find(_END)
    if start < 0 or end < start:
        raise ValueError("no certificate in it")
    try:
        return _leaf(ssl.PEM_cert_to_DER_cert(text[start : end + len(_END)]))
    except (IndexError, StopIteration) as error:
        raise ValueError("its first certificate cannot be read") from error


def _leaf(der: bytes) -> Leaf:
    certificate = next(_values(der))[1]
    fields = list(_values(next(_values(certificate))[1]))
    if fields[0][0] == 0xA0:  # the version, which is absent in version 1
        del fields[0]
    subject, key = fields[4][1], fields[5][1]
    extensions = next((value for tag, value in fields[6:] if tag == _EXTENSIONS), b"")
    names = _dns_names(extensions) or _common_names(subject)
    algorithm, *parameters = [value for _, value in _values(next(_values(key))[1])]
    kind = _KEYS.get(algorithm, "other")
    if kind == "ecdsa":
        _require_use(parameters, extensions)
    return Leaf(tuple(name.lower() for name in names), kind)


def _require_use(parameters: Sequence[bytes], extensions: bytes) -> None:
    """Raise ValueError for a key that OpenSSL serves, but clients, BoringSSL and Envoy reject."""
    if not parameters or parameters[0] not in _CURVES:
        raise ValueError("its key is on a curve that clients do not accept; use P-256, P-384 or P-521")
    usage = _extension(extensions, _KEY_USAGE)
    bits = b"" if usage is None else next(_values(usage))[1]
    if len(bits) > 1 and not bits[1] & _DIGITAL_SIGNATURE:
        raise ValueError("its key usage lacks digitalSignature, without which clients refuse it; issue it with that")


def _dns_names(extensions: bytes) -> list[str]:
    found = _extension(extensions, _ALTERNATIVE_NAME)
    if found is None:
        return []
    names = next(_values(found))[1]
    return [value.decode("latin-1") for tag, value in _values(names) if tag == _DNS_NAME]


def _extension(extensions: bytes, name: bytes) -> bytes | None:
    for _, listed in _values(extensions):
        for _, extension in _values(listed):
            parts = [value for _, value in _values(extension)]
            if parts[0] == name:
                return parts[-1]
    return None


def _common_names(subject: bytes) -> list[str]:
    parts = (list(_values(pair)) for _, group in _values(subject) for _, pair in _values(group))
    return [part[1][1].decode("utf-8", "replace") for part in parts if part[0][1] == _COMMON_NAME]


def _values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and content of each value in `data`."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise IndexError
        yield tag, data[at : at + length]
        at += length
