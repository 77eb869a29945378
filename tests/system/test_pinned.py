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

pytestmark = pytest.mark.pushed

NAMES = ["a.test", "b.test", "c.test"]


def with_pairs(instance: AgentFixture, names: list[str] = NAMES) -> dict[str, Leaf]:
    """Let a fixture serve a pair for each name, selected by it, beside its own; start it."""
    pairs = {name: authority().issue([name]) for name in names}
    instance.certs.mkdir()
    put(instance, dict(pairs))
    secured = [Secured(instance.certs / f"{name}.crt", instance.certs / f"{name}.key", name) for name in names]
    instance.bootstrap.secured = [*instance.bootstrap.secured, *secured]
    instance.start()
    return pairs


def renewed(names: list[str]) -> dict[str, Pair]:
    """Issue a new pair for each name."""
    return {name: authority().issue([name]) for name in names}


def pinned(instance: AgentFixture) -> list[str]:
    """Return the agent's messages about pairs that the proxy refuses."""
    return [entry.body for entry in instance.journal.complaints() if entry.attributes.get("fault") == "proxy"]


@pytest.mark.parametrize("how", ["short RSA", *(pytest.param(how, marks=pytest.mark.long) for how in [*REFUSED][1:])])
def test_what_only_the_proxy_refuses_blocks_no_other_pair(how: str, unstarted: AgentFixture, loads: Loads) -> None:
    instance = unstarted
    old = with_pairs(instance)
    loads.gentle(named(instance, "b.test"), instance.plain)
    starts = len(instance.journal.named("epoch.starting"))
    new = renewed(["a.test", "c.test"])
    put(instance, {"b.test": REFUSED[how](authority(), "b.test"), **new})
    wanted = serials(dict(old)) | serials(new)
    eventually(lambda: shown(instance, NAMES) == wanted, what="the others are renewed")
    complaint, *more = eventually(lambda: pinned(instance), what="the pair is named")
    assert more == []
    assert f"cannot use {instance.certs / 'b.test'}." in complaint, "the file is named"
    assert "reports: " in complaint, "and the proxy quoted"
    assert "last good" in complaint
    assert len(instance.journal.named("epoch.starting")) - starts <= 4  # the files may have been read half written
    put(instance, mended := renewed(["b.test"]))
    eventually(lambda: shown(instance, ["b.test"]) == serials(mended), what="a good one is taken at once")
    nothing_failed(loads.finish(at_least=20))


def test_a_new_name_in_the_directory_that_the_proxy_refuses_is_left_out(unstarted: AgentFixture) -> None:
    """Without a configuration every pair is served, except the one that the proxy does not accept."""
    instance = unstarted
    instance.is_small = True
    instance.start()
    put(instance, {"b.test": short_rsa(authority(), "b.test")})
    eventually(lambda: pinned(instance), what="it is named")
    instance.rotate()
    instance.served()
    assert len(pinned(instance)) == 1
    put(instance, mended := renewed(["b.test"]))
    eventually(lambda: shown(instance, ["b.test"]) == serials(mended), what="a good one is served")


def test_at_the_first_start_the_others_are_served_without_it(unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.certs.mkdir()
    put(instance, {"b.test": short_rsa(authority(), "b.test")})
    instance.more_flags += ["--no-wait"]
    instance.is_small = True
    instance.start()
    assert any("the other certificates are served without it" in each for each in pinned(instance))


@pytest.mark.long
@pytest.mark.envoy
def test_a_new_configuration_that_names_a_pair_without_last_good_leaves_the_old_one_rotating(
    unstarted: AgentFixture,
) -> None:
    instance = unstarted
    instance.start()
    put(instance, {"b.test": short_rsa(authority(), "b.test")})
    secured = [
        *instance.bootstrap.secured,
        Secured(instance.certs / "b.test.crt", instance.certs / "b.test.key", "b.test"),
    ]
    instance.bootstrap.secured = secured
    instance.bootstrap.write(instance.config)
    eventually(lambda: pinned(instance), what="it is named")
    instance.rotate()
    instance.served()
    put(instance, mended := renewed(["b.test"]))
    eventually(lambda: shown(instance, ["b.test"]) == serials(mended), what="the configuration is taken")


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


@pytest.mark.long
@pytest.mark.envoy
def test_a_refusal_that_names_no_file_is_found_by_trying(unstarted: AgentFixture, loads: Loads) -> None:
    """An OCSP response that belongs to another certificate: Envoy does not name the pair."""
    instance, names = unstarted, [f"n{number}.test" for number in range(6)]
    secured = [Secured(instance.certs / f"{name}.crt", instance.certs / f"{name}.key", name) for name in names]
    instance.bootstrap = Stapling(instance.tls.port, instance.plain.port, [*instance.bootstrap.secured, *secured])
    pairs = {name: authority().issue([name]) for name in names}
    instance.certs.mkdir()

    def write(leaves: dict[str, Leaf], responses: dict[str, Leaf]) -> None:
        for name, leaf in responses.items():
            (instance.certs / f"{name}.ocsp").write_bytes(stapled(leaf, authority()))
        put(instance, dict(leaves))

    write(pairs, pairs)
    instance.start()
    loads.gentle(named(instance, "n3.test"), instance.plain)
    new = {name: authority().issue([name]) for name in names}
    write(new, new | {"n3.test": new["n4.test"]})
    wanted = serials(dict(new)) | serials({"n3.test": pairs["n3.test"]})
    eventually(lambda: shown(instance, names) == wanted, what="the others are renewed")
    complaint = eventually(lambda: pinned(instance), what="the pair is named")[-1]
    assert "n3.test" in complaint
    assert "OCSP" in complaint
    write({}, {"n3.test": new["n3.test"]})
    eventually(lambda: shown(instance, names) == serials(dict(new)), what="with its own response it is taken")
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


@pytest.mark.long
@pytest.mark.envoy
@pytest.mark.parametrize("how", ["short RSA", pytest.param("PSS key", marks=pytest.mark.long)])
def test_in_a_file_of_listeners_too_it_blocks_no_other_pair(how: str, unstarted: AgentFixture, loads: Loads) -> None:
    instance, path = unstarted, unstarted.directory / "lds.yaml"
    old = {name: authority().issue([name]) for name in NAMES}
    instance.certs.mkdir()
    put(instance, dict(old))
    chains = [Secured(instance.certs / f"{name}.crt", instance.certs / f"{name}.key", name) for name in NAMES]
    own = Secured(instance.certs / CHAIN, instance.certs / KEY)
    tls = listener("tls", HOST, instance.tls.port, [tls_chain(each, "ok\n") for each in (own, *chains)])
    write_lds(path, [tls, plain_listener("plain", instance.plain.port)], "1")
    instance.bootstrap = FromPlane(instance.tls.port, instance.plain.port, [], dynamic={"lds_config": from_file(path)})
    instance.start()
    loads.gentle(named(instance, "b.test"), instance.plain)
    new = renewed(["a.test", "c.test"])
    put(instance, {"b.test": REFUSED[how](authority(), "b.test"), **new})
    wanted = serials(dict(old)) | serials(new)
    eventually(lambda: shown(instance, NAMES) == wanted, what="the others are renewed")
    (complaint,) = eventually(lambda: pinned(instance), what="the pair is named")
    assert "b.test" in complaint
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.long
@pytest.mark.envoy
def test_a_secret_in_a_file_keeps_its_last_good_while_others_are_renewed(unstarted: AgentFixture, loads: Loads) -> None:
    instance = unstarted
    secret = Secret(instance, files)
    instance.more_flags += ["--watch", str(secret.directory)]
    instance.start()
    eventually(lambda: serial_served(secret.target) == serial(secret.mint.newest), what="the secret is served")
    before = serial(secret.mint.newest)
    loads.gentle(secret.target, instance.plain)
    spoilt = short_rsa(authority(), "proxy.test")
    files(secret.directory, spoilt.chain_pem, spoilt.key_pem)
    instance.rotate()
    instance.served()
    eventually(lambda: pinned(instance), what="the pair is named")
    assert serial_served(secret.target) == before
    nothing_failed(loads.finish(at_least=20))
