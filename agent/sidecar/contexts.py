"""TLS contexts from files, loaded once, so that every error is reported before serving."""

import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.core.errors import BadInput
from agent.sidecar.leaf import Leaf, leaf_of
from agent.sidecar.model import Certificate, DownstreamTls, UpstreamTls

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


Maker = Callable[[Sequence[Certificate]], ssl.SSLContext]


def _maker(tls: DownstreamTls) -> Maker:
    def make(certificates: Sequence[Certificate]) -> ssl.SSLContext:
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


def _prepare(context: ssl.SSLContext, tls: DownstreamTls | UpstreamTls) -> None:
    context.minimum_version, context.maximum_version = tls.minimum, tls.maximum
    context.set_ciphers(_CIPHERS + (_OLD_CIPHERS if tls.minimum in _OLD else ""))
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # an intermediate may be the trusted certificate
    if tls.alpn:
        context.set_alpn_protocols(list(tls.alpn))
    if tls.trusted_ca is not None:
        text = _text(tls.trusted_ca, "the trusted CA")
        try:
            context.load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError) as error:
            raise BadInput(f"cannot load the trusted CA {tls.trusted_ca}: {_why(error)}") from error


def _load(context: ssl.SSLContext, certificate: Certificate) -> None:
    _text(certificate.key, "the private key")
    try:
        context.load_cert_chain(certificate.chain, certificate.key, password=_no_password)
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


def _leaf(certificate: Certificate) -> Leaf:
    try:
        return leaf_of(_text(certificate.chain, "the certificate chain"))
    except ValueError as error:
        raise BadInput(f"cannot load the certificate chain {certificate.chain}: {error}") from error


def _text(path: str, what: str) -> str:
    try:
        return Path(path).read_text("latin-1")
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {what} {path}: {_why(error)}") from error


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).lower()


def _first_of_each_key(certificates: Sequence[Certificate], leaves: Sequence[Leaf]) -> list[Certificate]:
    chosen: dict[str, Certificate] = {}
    for certificate, leaf in zip(certificates, leaves, strict=True):
        chosen.setdefault(leaf.key, certificate)
    return list(chosen.values())


def _by_name(certificates: Sequence[Certificate], leaves: Sequence[Leaf], make: Maker) -> dict[str, ssl.SSLContext]:
    """Return a context for each name; names with the same certificates share one."""
    names: dict[str, dict[str, Certificate]] = {}
    for certificate, leaf in zip(certificates, leaves, strict=True):
        for name in leaf.names:
            names.setdefault(name, {}).setdefault(leaf.key, certificate)
    made: dict[tuple[Certificate, ...], ssl.SSLContext] = {}
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
