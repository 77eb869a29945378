from ssl import TLSVersion

import pytest

from agent.sidecar.config.transport_sockets import DOWNSTREAM, PLAIN, UPSTREAM, downstream, upstream
from agent.sidecar.model import Certificate, DownstreamTls, SecretSource, UpstreamTls
from tests.sidecar.config.messages import Read, read
from tests.sidecar.patches import BY_SDS, CA_BY_SDS, secret

CHAIN = "envoy.config.listener.v3.FilterChain"
CLUSTER = "envoy.config.cluster.v3.Cluster"
PAIR = {"certificate_chain": {"filename": "/c"}, "private_key": {"filename": "/k"}}
CA = {"trusted_ca": {"filename": "/ca"}}
MADE = Certificate("/c", "/k")
AT = "m.transport_socket.typed_config"


def down(common: object = None, pair: bool = True, **context: object) -> Read:
    both = {**({"tls_certificates": [PAIR]} if pair else {}), **(common if isinstance(common, dict) else {})}
    config = {"@type": f"x/{DOWNSTREAM}", "common_tls_context": both, **context}
    return read(downstream, {"transport_socket": {"name": "tls", "typed_config": config}}, CHAIN)


def up(common: object = None, **context: object) -> Read:
    config = {"@type": f"x/{UPSTREAM}", "common_tls_context": common, **context}
    return read(upstream, {"transport_socket": {"name": "tls", "typed_config": config}}, CLUSTER)


@pytest.mark.parametrize("tree", [{}, {"transport_socket": {"name": "raw", "typed_config": {"@type": f"x/{PLAIN}"}}}])
def test_without_tls_there_is_none(tree: dict[str, object]) -> None:
    assert read(downstream, tree, CHAIN) == (None, "")
    assert read(upstream, tree, CLUSTER) == (None, "")


def test_a_certificate_is_enough_towards_clients() -> None:
    expected = DownstreamTls((MADE,), None, False, (), TLSVersion.TLSv1_2, TLSVersion.TLSv1_3)
    assert down() == (expected, "")


def test_nothing_is_enough_towards_a_cluster() -> None:
    assert up() == (UpstreamTls((), None, "", (), TLSVersion.TLSv1_2, TLSVersion.TLSv1_2), "")


def test_every_field_is_read_towards_clients() -> None:
    other = {"certificate_chain": {"filename": "/c2"}, "private_key": {"filename": "/k2"}}
    common = {
        "tls_certificates": [PAIR, other],
        "validation_context": CA,
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
    }
    both = (MADE, Certificate("/c2", "/k2"))
    expected = DownstreamTls(both, "/ca", True, ("h2", "http/1.1"), TLSVersion.TLSv1_3, TLSVersion.TLSv1_3)
    assert down(common, require_client_certificate=True) == (expected, "")


def test_every_field_is_read_towards_a_cluster() -> None:
    common = {
        "tls_certificates": [PAIR],
        "validation_context": CA,
        "alpn_protocols": ["x"],
        "tls_params": {"tls_maximum_protocol_version": 4},
    }
    expected = UpstreamTls((MADE,), "/ca", "a.example", ("x",), TLSVersion.TLSv1_2, TLSVersion.TLSv1_3)
    assert up(common, sni="a.example") == (expected, "")


@pytest.mark.parametrize("context", [{"common_tls_context": {}}, {}, {"common_tls_context": {"alpn_protocols": ["x"]}}])
def test_clients_are_shown_a_certificate(context: dict[str, object]) -> None:
    tree = {"transport_socket": {"name": "tls", "typed_config": {"@type": f"x/{DOWNSTREAM}", **context}}}
    why = read(downstream, tree, CHAIN).why
    assert why.startswith(f"{AT}.common_tls_context.tls_certificates: ")
    assert ";" not in why


def test_a_cluster_is_shown_one_certificate_at_most() -> None:
    assert up({"tls_certificates": [PAIR, PAIR]}).why.startswith(f"{AT}.common_tls_context.tls_certificates: ")


@pytest.mark.parametrize(
    ("pair", "missing"),
    [
        ({"certificate_chain": {"filename": "/c"}}, "private_key"),
        ({"private_key": {"filename": "/k"}}, "certificate_chain"),
        ({"certificate_chain": {"inline_string": "x"}, "private_key": {"filename": "/k"}}, "certificate_chain"),
    ],
)
def test_a_certificate_has_a_chain_and_a_key(pair: object, missing: str) -> None:
    value, why = up({"tls_certificates": [pair]})
    assert why.startswith(f"{AT}.common_tls_context.tls_certificates[0].{missing}")
    assert isinstance(value.certificates[0].chain + value.certificates[0].key, str)


@pytest.mark.parametrize(
    ("required", "ca", "is_good"), [(True, True, True), (True, False, False), (False, False, True)]
)
def test_a_required_certificate_needs_an_authority(required: bool, ca: bool, is_good: bool) -> None:
    value, why = down({"validation_context": CA} if ca else {}, require_client_certificate=required)
    assert value.require_client_certificate is required
    assert (why == "") is is_good
    assert is_good or why.startswith(f"{AT}.require_client_certificate: ")


def test_an_authority_is_optional_in_a_validation_context() -> None:
    assert up({"validation_context": {}}) == (UpstreamTls(), "")


@pytest.mark.parametrize(("size", "is_good"), [(255, True), (256, False)])
def test_a_server_name_has_255_bytes_at_most(size: int, is_good: bool) -> None:
    why = up(sni="x" * size).why
    assert (why == "") is is_good
    assert is_good or why.startswith(f"{AT}.sni: ")
    assert up(sni="é" * 128).why.startswith(f"{AT}.sni: ")


@pytest.mark.parametrize(
    ("protocols", "is_good"),
    [
        ([], True),
        (["x" * 255], True),
        (["x" * 256], False),
        (["é" * 128], False),
        (["x", ""], False),
        (["x" * 255] * 255 + ["x" * 254], True),
        (["x" * 255] * 256, False),
        (["x"] * 32767, True),
        (["x"] * 32768, False),
    ],
)
def test_protocols_fit_into_a_client_hello(protocols: list[str], is_good: bool) -> None:
    why = down({"alpn_protocols": protocols}).why
    assert (why == "") is is_good
    assert is_good or why.startswith(f"{AT}.common_tls_context.alpn_protocols: ")
    assert "; m." not in why


@pytest.mark.parametrize(
    ("minimum", "maximum", "found"),
    [
        (None, None, ("TLSv1_2", "TLSv1_3")),
        ("TLS_AUTO", "TLS_AUTO", ("TLSv1_2", "TLSv1_3")),
        ("TLSv1_3", None, ("TLSv1_3", "TLSv1_3")),
        (None, "TLSv1_2", ("TLSv1_2", "TLSv1_2")),
        (3, 3, ("TLSv1_2", "TLSv1_2")),
        (0, 4, ("TLSv1_2", "TLSv1_3")),
    ],
)
def test_versions_are_1_2_and_1_3(minimum: object, maximum: object, found: tuple[str, str]) -> None:
    params = {"tls_minimum_protocol_version": minimum, "tls_maximum_protocol_version": maximum}
    value, why = down({"tls_params": params})
    assert (value.minimum.name, value.maximum.name) == found
    assert why == ""


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"tls_minimum_protocol_version": "TLSv1_1"}, "tls_minimum_protocol_version"),
        ({"tls_maximum_protocol_version": "TLSv1_0"}, "tls_maximum_protocol_version"),
        ({"tls_minimum_protocol_version": 1}, "tls_minimum_protocol_version"),
        ({"tls_maximum_protocol_version": 2}, "tls_maximum_protocol_version"),
        (
            {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_2"},
            "tls_minimum_protocol_version",
        ),
        ({"cipher_suites": []}, "cipher_suites"),
    ],
)
def test_other_versions_are_refused(params: dict[str, object], field: str) -> None:
    why = down({"tls_params": params}).why
    assert why.startswith(f"{AT}.common_tls_context.tls_params.{field}: ")
    assert "; m." not in why


def test_a_later_minimum_than_the_default_maximum_of_a_cluster_is_refused() -> None:
    assert "tls_minimum_protocol_version" in up({"tls_params": {"tls_minimum_protocol_version": "TLSv1_3"}}).why


@pytest.mark.parametrize(
    ("socket", "path"),
    [
        ({"typed_config": {"@type": f"x/{PLAIN}"}}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x", "typed_config": {"@type": "x/a.Quic"}}, "typed_config.@type"),
        ({"name": "x", "typed_config": {"@type": f"x/{UPSTREAM}"}}, "typed_config.@type"),
        ({"name": "x"}, "typed_config"),
    ],
)
def test_a_socket_has_a_name_and_a_type(socket: dict[str, object], path: str) -> None:
    value, why = read(downstream, {"transport_socket": socket}, CHAIN)
    assert value is None
    assert why.startswith(f"m.transport_socket.{path}: ")


def test_a_context_of_clients_is_none_of_a_cluster() -> None:
    config = {"@type": f"x/{DOWNSTREAM}"}
    assert read(upstream, {"transport_socket": {"name": "x", "typed_config": config}}, CLUSTER).value is None


# Secrets

A, B = (SecretSource(name, "static", 0.5, 3600.0, 0.0) for name in ("a", "b"))


def test_certificates_and_authorities_may_come_as_secrets() -> None:
    value, why = down({BY_SDS: [secret("a"), secret("b")], CA_BY_SDS: secret("a")}, pair=False)
    assert (value.certificates, value.certificate_secrets, value.ca_secret, why) == ((), (A, B), A, "")
    value, why = up({BY_SDS: [secret("a")]})
    assert (value.certificate_secrets, value.ca_secret, value.has_secrets, why) == ((A,), None, True, "")
    value, why = down({CA_BY_SDS: secret("b")}, require_client_certificate=True)
    assert (value.certificates, value.ca_secret, value.has_secrets, why) == ((MADE,), B, True, "")
    assert not down().value.has_secrets


def test_a_combined_context_has_a_default_and_a_secret() -> None:
    combined = {"default_validation_context": CA, CA_BY_SDS: secret("a")}
    value, why = down({"combined_validation_context": combined})
    assert (value.trusted_ca, value.ca_secret, why) == ("/ca", A, "")


@pytest.mark.parametrize(
    ("common", "said"),
    [
        ({"tls_certificates": [PAIR], BY_SDS: [secret()]}, f"{BY_SDS}: it cannot stand beside tls_certificates"),
        (
            {"tls_certificates": [PAIR], "validation_context": CA, CA_BY_SDS: secret()},
            f"{CA_BY_SDS}: it cannot stand beside validation_context",
        ),
        ({BY_SDS: [{"name": "s"}]}, f"{BY_SDS}[0].sds_config: it is missing, and a secret of static_resources is not"),
        ({BY_SDS: [secret("")]}, f"{BY_SDS}[0].name: it is empty"),
        ({BY_SDS: [secret(api_type="GRPC")]}, f"{BY_SDS}[0].sds_config.api_config_source.api_type: GRPC is not supp"),
        ({BY_SDS: []}, "tls_certificates: there is no certificate to show to clients"),
    ],
)
def test_secrets_that_cannot_be_are_told_once(common: dict[str, object], said: str) -> None:
    why = down(common, pair=False).why
    assert why.startswith(f"{AT}.common_tls_context.{said}")
    assert "; m." not in why
