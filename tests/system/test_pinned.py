"""A pair that only the proxy refuses keeps its last good version, and is reported; the others are renewed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from tests.pki import Authority, Leaf
from tests.system.agent_fixture import HOST, AgentFixture
from tests.system.bare import serial_served
from tests.system.bootstrap import Bootstrap, Json, Secured, listener, tls_chain, write_lds
from tests.system.certificates import Pair, authority, serial
from tests.system.eventually import eventually
from tests.system.layouts import CHAIN, KEY
from tests.system.loads import Loads, nothing_failed
from tests.system.plane.sources import FromPlane, plain_listener
from tests.system.refused import REFUSED, short_rsa
from tests.system.test_bad_input import named, put, serials, shown
from tests.system.test_file_sds import Secret, files
from tests.system.test_file_xds import from_file

NAMES = ["a.test", "b.test", "c.test"]


def with_pairs(bed: AgentFixture, names: list[str] = NAMES) -> dict[str, Leaf]:
    """Let a fixture serve a pair for each name, selected by it, beside its own; start it."""
    pairs = {name: authority().issue([name]) for name in names}
    bed.certs.mkdir()
    put(bed, dict(pairs))
    secured = [Secured(bed.certs / f"{name}.crt", bed.certs / f"{name}.key", name) for name in names]
    bed.bootstrap.secured = [*bed.bootstrap.secured, *secured]
    bed.start()
    return pairs


def renewed(names: list[str]) -> dict[str, Pair]:
    """Issue a new pair for each name."""
    return {name: authority().issue([name]) for name in names}


def pinned(bed: AgentFixture) -> list[str]:
    """Return the agent's messages about pairs that the proxy refuses."""
    return [entry.body for entry in bed.journal.complaints() if entry.attributes.get("fault") == "proxy"]


@pytest.mark.parametrize("how", ["short RSA", *(pytest.param(how, marks=pytest.mark.long) for how in [*REFUSED][1:])])
def test_what_only_the_proxy_refuses_blocks_no_other_pair(how: str, bed_apart: AgentFixture, loads: Loads) -> None:
    bed = bed_apart
    old = with_pairs(bed)
    loads.gentle(named(bed, "b.test"), bed.plain)
    starts = len(bed.journal.named("epoch.starting"))
    new = renewed(["a.test", "c.test"])
    put(bed, {"b.test": REFUSED[how](authority(), "b.test"), **new})
    wanted = serials(dict(old)) | serials(new)
    eventually(lambda: shown(bed, NAMES) == wanted, what="the others are renewed")
    complaint, *more = eventually(lambda: pinned(bed), what="the pair is named")
    assert more == []
    assert f"cannot use {bed.certs / 'b.test'}." in complaint, "the file is named"
    assert "reports: " in complaint, "and the proxy quoted"
    assert "last good" in complaint
    assert len(bed.journal.named("epoch.starting")) - starts <= 4  # the files may have been read half written
    put(bed, mended := renewed(["b.test"]))
    eventually(lambda: shown(bed, ["b.test"]) == serials(mended), what="a good one is taken at once")
    nothing_failed(loads.finish(at_least=20))


def test_a_new_name_in_the_directory_that_the_proxy_refuses_is_left_out(bed_apart: AgentFixture) -> None:
    """Without a configuration every pair is served, except the one that the proxy does not accept."""
    bed = bed_apart
    bed.is_small = True
    bed.start()
    put(bed, {"b.test": short_rsa(authority(), "b.test")})
    eventually(lambda: pinned(bed), what="it is named")
    bed.rotate()
    bed.served()
    assert len(pinned(bed)) == 1
    put(bed, mended := renewed(["b.test"]))
    eventually(lambda: shown(bed, ["b.test"]) == serials(mended), what="a good one is served")


def test_at_the_first_start_the_others_are_served_without_it(bed_apart: AgentFixture) -> None:
    bed = bed_apart
    bed.certs.mkdir()
    put(bed, {"b.test": short_rsa(authority(), "b.test")})
    bed.more_flags += ["--no-wait"]
    bed.is_small = True
    bed.start()
    assert any("the other certificates are served without it" in each for each in pinned(bed))


@pytest.mark.long
@pytest.mark.envoy
def test_a_new_configuration_that_names_a_pair_without_last_good_leaves_the_old_one_rotating(
    bed_apart: AgentFixture,
) -> None:
    bed = bed_apart
    bed.start()
    put(bed, {"b.test": short_rsa(authority(), "b.test")})
    secured = [*bed.bootstrap.secured, Secured(bed.certs / "b.test.crt", bed.certs / "b.test.key", "b.test")]
    bed.bootstrap.secured = secured
    bed.bootstrap.write(bed.config)
    eventually(lambda: pinned(bed), what="it is named")
    bed.rotate()
    bed.served()
    put(bed, mended := renewed(["b.test"]))
    eventually(lambda: shown(bed, ["b.test"]) == serials(mended), what="the configuration is taken")


def stapled(leaf: Leaf, issuer: Authority) -> bytes:
    """Create an OCSP response with the status good for a leaf."""
    now = datetime.now(UTC)
    built = ocsp.OCSPResponseBuilder().add_response(
        leaf.certificate,
        issuer.certificate,
        SHA1(),  # RFC 6960, as compared by BoringSSL
        ocsp.OCSPCertStatus.GOOD,
        now,
        now + timedelta(days=1),
        None,
        None,
    )
    built = built.responder_id(ocsp.OCSPResponderEncoding.NAME, issuer.certificate)
    return built.sign(issuer.key, SHA256()).public_bytes(Encoding.DER)


@pytest.mark.envoy
def test_a_refusal_that_names_no_file_is_found_by_trying(bed_apart: AgentFixture, loads: Loads) -> None:
    """An OCSP response that belongs to another certificate: Envoy does not name the pair."""
    bed, names = bed_apart, [f"n{number}.test" for number in range(6)]
    secured = [Secured(bed.certs / f"{name}.crt", bed.certs / f"{name}.key", name) for name in names]
    bed.bootstrap = Stapling(bed.tls.port, bed.plain.port, [*bed.bootstrap.secured, *secured])
    pairs = {name: authority().issue([name]) for name in names}
    bed.certs.mkdir()

    def write(leaves: dict[str, Leaf], responses: dict[str, Leaf]) -> None:
        for name, leaf in responses.items():
            (bed.certs / f"{name}.ocsp").write_bytes(stapled(leaf, authority()))
        put(bed, dict(leaves))

    write(pairs, pairs)
    bed.start()
    loads.gentle(named(bed, "n3.test"), bed.plain)
    new = {name: authority().issue([name]) for name in names}
    write(new, new | {"n3.test": new["n4.test"]})
    wanted = serials(dict(new)) | serials({"n3.test": pairs["n3.test"]})
    eventually(lambda: shown(bed, names) == wanted, what="the others are renewed")
    complaint = eventually(lambda: pinned(bed), what="the pair is named")[-1]
    assert "n3.test" in complaint
    assert "OCSP" in complaint
    write({}, {"n3.test": new["n3.test"]})
    eventually(lambda: shown(bed, names) == serials(dict(new)), what="with its own response it is taken")
    nothing_failed(loads.finish(at_least=20))


class Stapling(Bootstrap):
    """The bootstrap, with an OCSP response for each pair that is selected by a name."""

    def tree(self) -> Json:
        """Return the bootstrap as the tree that `write` formats as YAML."""
        tree = super().tree()
        for chain in tree["static_resources"]["listeners"][0]["filter_chains"]:
            if "filter_chain_match" in chain:
                _staple(chain["transport_socket"]["typed_config"])
        return tree


def _staple(context: dict[str, Any]) -> None:
    context["ocsp_staple_policy"] = "STRICT_STAPLING"
    for pair in context["common_tls_context"]["tls_certificates"]:
        chain = pair["certificate_chain"]["filename"]
        pair["ocsp_staple"] = {"filename": chain.replace(".crt", ".ocsp")}


@pytest.mark.envoy
@pytest.mark.parametrize("how", ["short RSA", pytest.param("PSS key", marks=pytest.mark.long)])
def test_in_a_file_of_listeners_too_it_blocks_no_other_pair(how: str, bed_apart: AgentFixture, loads: Loads) -> None:
    bed, path = bed_apart, bed_apart.directory / "lds.yaml"
    old = {name: authority().issue([name]) for name in NAMES}
    bed.certs.mkdir()
    put(bed, dict(old))
    chains = [Secured(bed.certs / f"{name}.crt", bed.certs / f"{name}.key", name) for name in NAMES]
    own = Secured(bed.certs / CHAIN, bed.certs / KEY)
    tls = listener("tls", HOST, bed.tls.port, [tls_chain(each, "ok\n") for each in (own, *chains)])
    write_lds(path, [tls, plain_listener("plain", bed.plain.port)], "1")
    bed.bootstrap = FromPlane(bed.tls.port, bed.plain.port, [], dynamic={"lds_config": from_file(path)})
    bed.start()
    loads.gentle(named(bed, "b.test"), bed.plain)
    new = renewed(["a.test", "c.test"])
    put(bed, {"b.test": REFUSED[how](authority(), "b.test"), **new})
    wanted = serials(dict(old)) | serials(new)
    eventually(lambda: shown(bed, NAMES) == wanted, what="the others are renewed")
    (complaint,) = eventually(lambda: pinned(bed), what="the pair is named")
    assert "b.test" in complaint
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.long
@pytest.mark.envoy
def test_a_secret_in_a_file_keeps_its_last_good_while_others_are_renewed(bed_apart: AgentFixture, loads: Loads) -> None:
    bed = bed_apart
    secret = Secret(bed, files)
    bed.more_flags += ["--watch", str(secret.directory)]
    bed.start()
    eventually(lambda: serial_served(secret.target) == serial(secret.mint.newest), what="the secret is served")
    before = serial(secret.mint.newest)
    loads.gentle(secret.target, bed.plain)
    spoilt = short_rsa(authority(), "proxy.test")
    files(secret.directory, spoilt.chain_pem, spoilt.key_pem)
    bed.rotate()
    bed.served()
    eventually(lambda: pinned(bed), what="the pair is named")
    assert serial_served(secret.target) == before
    nothing_failed(loads.finish(at_least=20))
