"""The response of a control plane: what is in it, and the reasons against it, which never have its content."""

import base64
import json
from pathlib import Path

import pytest

from agent.core.errors import BadInput
from agent.sidecar.config.discovery import read_authority, read_certificate

TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
PRIVATE = "-----BEGIN PRIVATE KEY-----"
PAIR = {"certificate_chain": {"inline_string": "CHAIN"}, "private_key": {"inline_string": PRIVATE}}


def response(*secrets: object, **more: object) -> bytes:
    return json.dumps({"version_info": "7", "type_url": TYPE, "resources": list(secrets), **more}).encode()


def secret(**members: object) -> dict[str, object]:
    return {"@type": TYPE, "name": "s", **members}


def test_a_certificate_is_read_with_its_version() -> None:
    encoded = {"inline_bytes": base64.b64encode(b"KEY").decode()}
    found = read_certificate(response(secret(tls_certificate={**PAIR, "private_key": encoded})), "s")
    assert found.version == "7"
    chain, key = found.certificate
    assert (str(chain), chain.path, chain.content) == ("sds:s/certificate_chain", "<inline>", b"CHAIN")
    assert (str(key), key.path, key.content) == ("sds:s/private_key", "<inline>", b"KEY")
    assert "KEY" not in repr(found)


def test_a_file_is_read_now(tmp_path: Path) -> None:
    path = tmp_path / "chain"
    path.write_bytes(b"FILE")
    chain = {"filename": str(path)}
    found = read_certificate(response(secret(tls_certificate={**PAIR, "certificate_chain": chain})), "s")
    path.unlink()
    assert (found.certificate.chain.path, found.certificate.chain.content) == (str(path), b"FILE")


def test_an_authority_is_read_and_may_be_absent() -> None:
    found = read_authority(response(secret(validation_context={"trusted_ca": {"inline_string": "CA"}})), "s")
    assert found.trusted_ca is not None
    assert (found.version, str(found.trusted_ca), found.trusted_ca.content) == ("7", "sds:s/trusted_ca", b"CA")
    assert read_authority(response(secret(validation_context={})), "s").trusted_ca is None


def test_names_may_be_in_camel_case_and_a_version_may_be_absent() -> None:
    camel = {"certificateChain": {"inlineString": "C"}, "privateKey": {"inlineString": "K"}}
    body = json.dumps({"nonce": "x", "resources": [secret(tlsCertificate=camel)]}).encode()
    assert read_certificate(body, "s").version == ""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "it is not a JSON object"),
        (b"[]", "it is not a JSON object"),
        (PRIVATE.encode(), "it is not a JSON object"),
        (b"\xff{}", "it is not UTF-8"),
        (b"{" + PRIVATE.encode(), "line 1, column 2"),
        (b'{"a":' * 5000, "nested too deep"),
        (response(secret(tls_certificate=PAIR), version_info=7), "its version_info is not a text"),
        (response(), "it has 0 resources instead of one"),
        (response(secret(tls_certificate=PAIR), secret(tls_certificate=PAIR)), "it has 2 resources instead of one"),
        (response(resources={}), "it has no resources instead of one"),
        (response(resources=PRIVATE), "it has no resources instead of one"),
        (response(PRIVATE), "its resource is no envoy.extensions.transport_sockets.tls.v3.Secret"),
        (response({"name": "s", "tls_certificate": PAIR}), "its resource is no "),
        (response({**secret(tls_certificate=PAIR), "name": PRIVATE}), "it has a secret of another name"),
        (response(secret()), "it has nothing instead of tls_certificate"),
        (response(secret(generic_secret={})), "it has generic_secret instead of tls_certificate"),
        (
            response(secret(tls_certificate=PAIR, validation_context={})),
            "it has validation_context beside tls",
        ),
        (response(secret(tls_certificate=PAIR, more=PRIVATE)), "it has a field that is not supported by sidecar"),
        (response(secret(tls_certificate=PRIVATE)), "tls_certificate: it should be a mapping"),
        (response(secret(tls_certificate={})), "tls_certificate.certificate_chain: it is missing"),
        (response(secret(tls_certificate={**PAIR, "private_key": {}})), "one of filename, inline_string, inline_bytes"),
        (
            response(secret(tls_certificate={**PAIR, "private_key": PRIVATE})),
            "tls_certificate.private_key: it should be a mapping",
        ),
        (
            response(secret(tls_certificate={**PAIR, "private_key": {"inline_bytes": PRIVATE}})),
            "tls_certificate.private_key.inline_bytes: it is not base64",
        ),
        (
            response(secret(tls_certificate={**PAIR, "password": {"inline_string": PRIVATE}})),
            "tls_certificate.password: not supported by sidecar",
        ),
        (
            response(secret(tls_certificate={**PAIR, "private_key": {"filename": f"{PRIVATE}\n"}})),
            "tls_certificate.private_key.filename: it is not a path",
        ),
    ],
)
def test_what_is_no_certificate_is_refused_without_a_quotation(body: bytes, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_certificate(body, "s")
    assert said in str(caught.value)
    assert str(caught.value).startswith("cannot ")
    assert "PRIVATE" not in str(caught.value)


def test_what_is_no_validation_context_is_refused() -> None:
    for given, said in (
        ({"tls_certificate": PAIR}, "it has tls_certificate instead of validation_context"),
        ({"validation_context": {"crl": {"inline_string": "x"}}}, "validation_context.crl: not supported by sidecar"),
    ):
        with pytest.raises(BadInput, match=said):
            read_authority(response(secret(**given)), "s")
