"""TLS contexts from files and secrets, loaded once, so that every error is reported before they are used."""

import os
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.core.errors import BadInput
from agent.sidecar.leaf import Leaf, leaf_of
from agent.sidecar.model import AnyCertificate, DownstreamTls, LoadedPem, PemSource, Tls, UpstreamTls

# Envoy's ciphers for TLS 1.2; those of TLS 1.3 cannot be chosen.
_CIPHERS = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "CHACHA20-POLY1305", "AES256-GCM-SHA384")
    for key in ("ECDSA", "RSA")
)
_OLD = frozenset({ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1})
_OLD_CIPHERS = ":ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA:AES128-SHA:AES256-SHA:@SECLEVEL=0"


def server_context(tls: DownstreamTls) -> ssl.SSLContext:
    """Return the TLS context for clients; raise `BadInput` naming a file that cannot be used.

    With several certificates the client's server name selects one, as in Envoy: by exact name, then by `*.rest`, then
    the first one. If a name has an RSA and an ECDSA certificate, the client gets one that it can verify, ECDSA first.
    """
    if not tls.certificates:
        raise BadInput("cannot serve TLS: no certificate is named")
    if tls.require_client_certificate and tls.trusted_ca is None:
        raise BadInput("cannot require client certificates: no trusted_ca is named")
    leaves = [_leaf(certificate) for certificate in tls.certificates]
    make = _maker(tls)
    first = make(tls.certificates[:1])
    if len(tls.certificates) == 1:
        return first
    nameless = make(_first_of_each_key(tls.certificates, leaves))
    nameless.sni_callback = _chooser(_by_name(tls.certificates, leaves, make), first, nameless)
    return nameless


def client_context(tls: UpstreamTls) -> ssl.SSLContext:
    """Return the TLS context for a cluster; raise `BadInput` naming a file that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the chain is verified, the name is not, as in Envoy
    context.verify_mode = ssl.CERT_NONE if tls.trusted_ca is None else ssl.CERT_REQUIRED
    _prepare(context, tls)
    for certificate in tls.certificates[:1]:
        _leaf(certificate)
        _load(context, certificate)
    try:
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=tls.sni or None)
    except ValueError as error:
        raise BadInput(f"cannot use the server name {tls.sni}: {_why(error)}") from error
    return context


def check_certificate(certificate: AnyCertificate) -> None:
    """Raise `BadInput` if a certificate cannot be used by itself, for example with a key that does not match."""
    _leaf(certificate)
    _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate)


def check_authority(trusted_ca: PemSource) -> None:
    """Raise `BadInput` if authorities cannot be loaded."""
    _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), trusted_ca)


def check_files(tls: Tls) -> None:
    """Raise `BadInput` if a file beside secrets cannot be used; the secrets are checked when they come."""
    for certificate in tls.certificates:
        check_certificate(certificate)
    if tls.trusted_ca is not None:
        check_authority(tls.trusted_ca)
    if isinstance(tls, UpstreamTls):
        client_context(tls)  # the server name too


Maker = Callable[[Sequence[AnyCertificate]], ssl.SSLContext]


def _maker(tls: DownstreamTls) -> Maker:
    def make(certificates: Sequence[AnyCertificate]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.num_tickets = 1
        if tls.trusted_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED if tls.require_client_certificate else ssl.CERT_OPTIONAL
        _prepare(context, tls)
        for certificate in certificates:
            _load(context, certificate)
        return context

    return make


def _prepare(context: ssl.SSLContext, tls: Tls) -> None:
    context.minimum_version, context.maximum_version = tls.minimum, tls.maximum
    context.set_ciphers(_CIPHERS + (_OLD_CIPHERS if tls.minimum in _OLD else ""))
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # an intermediate may be the trusted certificate
    if tls.alpn:
        context.set_alpn_protocols(list(tls.alpn))
    if tls.trusted_ca is not None:
        _trust(context, tls.trusted_ca)


def _trust(context: ssl.SSLContext, trusted_ca: PemSource) -> None:
    text = _text(trusted_ca, "the trusted CA")
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise BadInput(f"cannot load the trusted CA {trusted_ca}: {_why(error)}") from error


def _load(context: ssl.SSLContext, certificate: AnyCertificate) -> None:
    _text(certificate.key, "the private key")
    try:
        with _file(certificate.chain) as chain, _file(certificate.key) as key:
            context.load_cert_chain(chain, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise BadInput(
                f"cannot use the private key {certificate.key}: it does not match {certificate.chain}"
            ) from error
        raise BadInput(f"cannot load {certificate.chain} with the key {certificate.key}: {_why(error)}") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot load {certificate.chain} with the key {certificate.key}: {_why(error)}") from error


def _no_password() -> str:
    """Raise ValueError for an encrypted key, so that OpenSSL never prompts on the terminal."""
    raise ValueError("the key is encrypted")


def _leaf(certificate: AnyCertificate) -> Leaf:
    try:
        return leaf_of(_text(certificate.chain, "the certificate chain"))
    except ValueError as error:
        raise BadInput(f"cannot load the certificate chain {certificate.chain}: {error}") from error


def _text(source: PemSource, what: str) -> str:
    if isinstance(source, LoadedPem):
        return source.content.decode("latin-1")
    try:
        return Path(source).read_text("latin-1")
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {what} {source}: {_why(error)}") from error


@contextmanager
def _file(source: PemSource) -> Iterator[str]:
    """Yield a path to read from: `ssl` loads keys from files only, and a memfd is never on a disk."""
    if isinstance(source, str):
        yield source
        return
    descriptor = os.memfd_create("secret", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(source.content)
        yield f"/dev/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).lower()


def _first_of_each_key(certificates: Sequence[AnyCertificate], leaves: Sequence[Leaf]) -> list[AnyCertificate]:
    chosen: dict[str, AnyCertificate] = {}
    for certificate, leaf in zip(certificates, leaves, strict=True):
        chosen.setdefault(leaf.key, certificate)
    return list(chosen.values())


def _by_name(certificates: Sequence[AnyCertificate], leaves: Sequence[Leaf], make: Maker) -> dict[str, ssl.SSLContext]:
    """Return a context for each name; names with the same certificates share one."""
    names: dict[str, dict[str, AnyCertificate]] = {}
    for certificate, leaf in zip(certificates, leaves, strict=True):
        for name in leaf.names:
            names.setdefault(name, {}).setdefault(leaf.key, certificate)
    made: dict[tuple[AnyCertificate, ...], ssl.SSLContext] = {}
    for chosen in names.values():
        pair = tuple(chosen.values())
        if pair not in made:
            made[pair] = make(pair)
    return {name: made[tuple(chosen.values())] for name, chosen in names.items()}


def _chooser(
    by_name: dict[str, ssl.SSLContext], first: ssl.SSLContext, nameless: ssl.SSLContext
) -> Callable[[ssl.SSLObject | ssl.SSLSocket, str | None, ssl.SSLContext], None]:
    def choose(met: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> None:
        if not name:
            met.context = nameless
            return
        wanted = name.lower()
        wildcard = f"*.{wanted.partition('.')[2]}"
        met.context = by_name.get(wanted) or by_name.get(wildcard) or first

    return choose
