"""Reads transport sockets: TLS towards clients or clusters, or plain."""

from ssl import TLSVersion

from agent.sidecar.config.addresses import filename
from agent.sidecar.config.fields import NOT_SUPPORTED, Message
from agent.sidecar.model import Certificate, DownstreamTls, UpstreamTls

SOCKET = "envoy.config.core.v3.TransportSocket"
PLAIN = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"

_PREFIX = "envoy.extensions.transport_sockets.tls.v3"
DOWNSTREAM, UPSTREAM = f"{_PREFIX}.DownstreamTlsContext", f"{_PREFIX}.UpstreamTlsContext"

_VERSIONS = {"TLS_AUTO": 0, "TLSv1_0": 1, "TLSv1_1": 2, "TLSv1_2": 3, "TLSv1_3": 4}
_HEEDED = {"TLS_AUTO": None, "TLSv1_2": TLSVersion.TLSv1_2, "TLSv1_3": TLSVersion.TLSv1_3}
_LONGEST_LIST = (1 << 16) - 1  # bytes, including one before each name: RFC 7301, 3.1
_LONGEST_NAME = 255  # bytes, of a server name or a protocol name


def downstream(holder: Message) -> DownstreamTls | None:
    """Return the TLS settings of a filter chain towards clients; None for plain."""
    context = _context(holder, DOWNSTREAM)
    if context is None:
        return None
    common = _Common(context, TLSVersion.TLSv1_3)
    required = context.truth("require_client_certificate", default=False)
    if required and common.trusted_ca is None:
        context.refuse("require_client_certificate", f"{NOT_SUPPORTED} without a trusted_ca to verify it")
    if not common.certificates:
        common.message.refuse("tls_certificates", "there is no certificate to show to clients")
    return DownstreamTls(
        common.certificates, common.trusted_ca, required, common.alpn, common.minimum, common.maximum
    )  # fmt: skip


def upstream(holder: Message) -> UpstreamTls | None:
    """Return the TLS settings towards a cluster; None for plain."""
    context = _context(holder, UPSTREAM)
    if context is None:
        return None
    common = _Common(context, TLSVersion.TLSv1_2)
    sni = context.text("sni")
    if len(sni.encode()) > _LONGEST_NAME:
        context.refuse("sni", f"it is longer than {_LONGEST_NAME} bytes")
    if len(common.certificates) > 1:
        common.message.refuse("tls_certificates", "a client has one certificate")
    return UpstreamTls(common.certificates, common.trusted_ca, sni, common.alpn, common.minimum, common.maximum)


def _context(holder: Message, kind: str) -> Message | None:
    socket = holder.message("transport_socket", SOCKET)
    if socket is None:
        return None
    socket.text("name", required=True)
    typed = socket.typed((kind, PLAIN))
    return None if typed is None or typed[0] == PLAIN else typed[1]


class _Common:
    """The TLS settings that exist on both sides."""

    def __init__(self, context: Message, latest: TLSVersion) -> None:
        found = context.message("common_tls_context", f"{_PREFIX}.CommonTlsContext")
        self.message = found or Message(
            {}, context.at("common_tls_context"), f"{_PREFIX}.CommonTlsContext", context.refusals
        )
        certificates = self.message.messages("tls_certificates", f"{_PREFIX}.TlsCertificate")
        self.certificates = tuple(_certificate(each) for each in certificates)
        self.trusted_ca = _trusted_ca(self.message)
        self.alpn = self.message.texts("alpn_protocols")
        self.minimum, self.maximum = _versions(self.message, latest)
        self._check_protocols()

    def _check_protocols(self) -> None:
        sizes = [len(name.encode()) for name in self.alpn]
        if sizes and max(sizes) > _LONGEST_NAME:
            self.message.refuse("alpn_protocols", f"one is longer than {_LONGEST_NAME} bytes")
        if sum(sizes) + len(sizes) > _LONGEST_LIST:
            self.message.refuse("alpn_protocols", f"they do not fit into {_LONGEST_LIST} bytes")
        if 0 in sizes:
            self.message.refuse("alpn_protocols", f"a protocol without a name is {NOT_SUPPORTED}")


def _certificate(message: Message) -> Certificate:
    chain = filename(message, "certificate_chain", required=True)
    key = filename(message, "private_key", required=True)
    return Certificate(chain or "", key or "")


def _trusted_ca(message: Message) -> str | None:
    validation = message.message("validation_context", f"{_PREFIX}.CertificateValidationContext")
    return None if validation is None else filename(validation, "trusted_ca")


def _versions(message: Message, latest: TLSVersion) -> tuple[TLSVersion, TLSVersion]:
    asked = message.message("tls_params", f"{_PREFIX}.TlsParameters")
    if asked is None:
        return TLSVersion.TLSv1_2, latest
    minimum = asked.choice("tls_minimum_protocol_version", _VERSIONS, _HEEDED, None) or TLSVersion.TLSv1_2
    maximum = asked.choice("tls_maximum_protocol_version", _VERSIONS, _HEEDED, None) or latest
    if minimum > maximum:
        asked.refuse("tls_minimum_protocol_version", f"a minimum later than the maximum is {NOT_SUPPORTED}")
    return minimum, maximum
