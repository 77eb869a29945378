"""Reads transport sockets: TLS towards clients or clusters, or plain."""

from ssl import TLSVersion

from agent.sidecar.config.addresses import filename
from agent.sidecar.config.fields import NOT_SUPPORTED, Message
from agent.sidecar.config.sources import SOURCE, rest_source
from agent.sidecar.model import Certificate, DownstreamTls, SecretSource, UpstreamTls

SOCKET = "envoy.config.core.v3.TransportSocket"
PLAIN = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"

_PREFIX = "envoy.extensions.transport_sockets.tls.v3"
DOWNSTREAM, UPSTREAM = f"{_PREFIX}.DownstreamTlsContext", f"{_PREFIX}.UpstreamTlsContext"
CERTIFICATE, VALIDATION = f"{_PREFIX}.TlsCertificate", f"{_PREFIX}.CertificateValidationContext"
_COMBINED = "CommonTlsContext.CombinedCertificateValidationContext"
_BY_SDS = "validation_context_sds_secret_config"
_VALIDATIONS = ("validation_context", _BY_SDS, "combined_validation_context")

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
    if required and common.trusted_ca is None and common.ca_secret is None:
        context.refuse("require_client_certificate", f"{NOT_SUPPORTED} without a trusted_ca to verify it")
    if not common.certificates and not common.secrets:
        common.message.refuse("tls_certificates", "there is no certificate to show to clients")
    return DownstreamTls(
        common.certificates, common.trusted_ca, required, common.alpn, common.minimum, common.maximum,
        common.certificate_secrets, common.ca_secret,
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
    for field, listed in (
        ("tls_certificates", common.certificates),
        ("tls_certificate_sds_secret_configs", common.secrets),
    ):
        if len(listed) > 1:
            common.message.refuse(field, "a client has one certificate")
    return UpstreamTls(
        common.certificates, common.trusted_ca, sni, common.alpn, common.minimum, common.maximum,
        common.certificate_secrets, common.ca_secret,
    )  # fmt: skip


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
        certificates = self.message.messages("tls_certificates", CERTIFICATE)
        self.certificates = tuple(_certificate(each) for each in certificates)
        self.secrets = self.message.messages("tls_certificate_sds_secret_configs", f"{_PREFIX}.SdsSecretConfig")
        self.certificate_secrets = tuple(source for each in self.secrets if (source := _secret(each)) is not None)
        self.trusted_ca, self.ca_secret = _validation(self.message)
        self._check_alternatives()
        self.alpn = self.message.texts("alpn_protocols")
        self.minimum, self.maximum = _versions(self.message, latest)
        self._check_protocols()

    def _check_alternatives(self) -> None:
        for alternatives in (("tls_certificates", "tls_certificate_sds_secret_configs"), _VALIDATIONS):
            first, *others = [field for field in alternatives if self.message.has(field)] or [""]
            for each in others:
                self.message.refuse(each, f"it cannot stand beside {first}")

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


def _validation(common: Message) -> tuple[str | None, SecretSource | None]:
    """Return the path of the trusted CA, and the secret that replaces it."""
    combined = common.message("combined_validation_context", f"{_PREFIX}.{_COMBINED}")
    if combined is None:
        return _trusted_ca(common, "validation_context"), _ca_secret(common)
    if not combined.has("default_validation_context"):
        combined.missing("default_validation_context")
    if not combined.has(_BY_SDS):
        combined.missing(_BY_SDS)
    return _trusted_ca(combined, "default_validation_context"), _ca_secret(combined)


def _trusted_ca(holder: Message, field: str) -> str | None:
    validation = holder.message(field, VALIDATION)
    return None if validation is None else filename(validation, "trusted_ca")


def _ca_secret(holder: Message) -> SecretSource | None:
    message = holder.message(_BY_SDS, f"{_PREFIX}.SdsSecretConfig")
    return None if message is None else _secret(message)


def _secret(message: Message) -> SecretSource | None:
    name = message.text("name", required=True)
    if not message.has("sds_config"):
        message.refuse("sds_config", f"it is missing, and a secret of static_resources is {NOT_SUPPORTED}")
    source = message.message("sds_config", SOURCE)
    found = None if source is None else rest_source(source)
    if found is None:
        return None
    return SecretSource(name, found.cluster, found.refresh_delay, found.request_timeout, found.initial_fetch_timeout)


def _versions(message: Message, latest: TLSVersion) -> tuple[TLSVersion, TLSVersion]:
    asked = message.message("tls_params", f"{_PREFIX}.TlsParameters")
    if asked is None:
        return TLSVersion.TLSv1_2, latest
    minimum = asked.choice("tls_minimum_protocol_version", _VERSIONS, _HEEDED, None) or TLSVersion.TLSv1_2
    maximum = asked.choice("tls_maximum_protocol_version", _VERSIONS, _HEEDED, None) or latest
    if minimum > maximum:
        asked.refuse("tls_minimum_protocol_version", f"a minimum later than the maximum is {NOT_SUPPORTED}")
    return minimum, maximum
