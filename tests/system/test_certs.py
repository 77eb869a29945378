"""`agent certs` and `agent status` compared with openssl, on a real proxy with certificates of every kind."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.certificates.x509 import Leaf as Known
from agent.status.model import Facts
from tests.cli import openssl
from tests.cli.agents import Ran, agent
from tests.pki import Algorithm, Leaf
from tests.system.agent_fixture import AgentFixture
from tests.system.bootstrap import Secured
from tests.system.certificates import authority
from tests.system.eventually import eventually
from tests.system.layouts import CHAIN, IN_PLACE, KEY, ROOT

pytestmark = pytest.mark.long

KINDS: dict[str, Algorithm] = {"rsa.test": "rsa", "ecdsa.test": "ecdsa", "ed25519.test": "ed25519"}
SPIFFE = "spiffe://example/ns/default/sa/web"


@dataclass(frozen=True)
class Site:
    """A name with its certificate on disk."""

    name: str
    directory: Path
    leaf: Leaf

    @property
    def chain(self) -> Path:
        """The chain on disk."""
        return self.directory / CHAIN


@pytest.fixture
def sites(unstarted: AgentFixture) -> list[Site]:
    """An agent fixture that serves a leaf of every kind, each with its own name, a chain of two and a SPIFFE ID."""
    below = authority().intermediate("the one below")
    sites = []
    for name, key in KINDS.items():
        directory = unstarted.directory / name
        leaf = below.issue([name, f"*.{name}", "192.0.2.7", SPIFFE], key)
        IN_PLACE.first(directory, leaf)
        (directory / ROOT).write_bytes(authority().pem)
        unstarted.more_flags += ["--certs", str(directory)]
        sites.append(Site(name, directory, leaf))
    secured = [Secured(each.chain, each.directory / KEY, each.name, each.directory / ROOT) for each in sites]
    unstarted.bootstrap.secured = [*unstarted.bootstrap.secured, *secured]
    unstarted.start()
    return sites


def told(instance: AgentFixture) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the output of `agent certs --json`."""
    ran = agent("certs", "--json", "--run-dir", instance.run_dir)
    assert ran.err == ""
    return ran.code, json.loads(ran.out)


def set_of(inventory: dict[str, Any], site: Site) -> dict[str, Any]:
    found: list[dict[str, Any]] = [
        each for each in inventory["sets"] if each["chain"] and each["chain"]["path"] == str(site.chain)
    ]
    assert len(found) == 1, inventory["sets"]
    return found[0]


def test_certs_prints_the_same_facts_as_openssl(unstarted: AgentFixture, sites: list[Site], tmp_path: Path) -> None:
    code, inventory = told(unstarted)
    assert (code, inventory["findings"]) == (0, [])
    for site in sites:
        known = Facts.of(Known.of(site.leaf.certificate))
        assert openssl.told_of(site.chain) == openssl.expected(known)
        pem = tmp_path / "shown.pem"
        pem.write_text(openssl.shown_at(unstarted.tls.host, unstarted.tls.port, site.name))
        assert openssl.told_of(pem) == openssl.expected(known)
        one = set_of(inventory, site)
        for facts in (one["disk"], one["served"], one["chain"]["leaf"]):
            assert (facts["serial"], facts["fingerprint"]) == (known.serial, known.fingerprint)
            assert (facts["spiffe_id"], facts["key_type"]) == (SPIFFE, known.key_type)
        assert (one["chain"]["certificates"], one["chain"]["in_order"], one["key"]["fits"]) == (2, True, True)
        assert {(each["name"], each["matches"]) for each in one["shown"]} == {(site.name, True)}
    kinds = {each["address"]: each["kind"] for each in inventory["listeners"]}
    host = unstarted.tls.host
    assert kinds == {f"tcp://{host}:{unstarted.tls.port}": "tls", f"tcp://{host}:{unstarted.plain.port}": "plaintext"}


def test_a_key_that_does_not_fit_is_explained_and_nothing_else_changes(
    unstarted: AgentFixture, sites: list[Site]
) -> None:
    spoiled = sites[0]
    (spoiled.directory / KEY).write_bytes(sites[1].leaf.key_pem)

    def refused() -> Ran | None:
        ran = agent("status", "--run-dir", unstarted.run_dir)
        return ran if ran.code == 3 and "\nrefused\n" in ran.out else None

    status = eventually(refused, what="the refusal is told")
    assert status is not None
    assert "certificate and key do not belong together" in status.out.split("\nepochs\n")[0]
    assert f"{spoiled.directory}/{KEY}" in "".join(status.out.split())
    code, inventory = told(unstarted)
    assert code == 1
    assert [each["about"] for each in inventory["findings"]] == [set_of(inventory, spoiled)["name"]]
    assert "it does not fit" in inventory["findings"][0]["message"]


def test_history_and_request_work(unstarted: AgentFixture, sites: list[Site]) -> None:
    unstarted.rotate()
    unstarted.served()
    first, second = (
        json.loads(line) for line in agent("history", "--json", "--run-dir", unstarted.run_dir).out.splitlines()
    )
    assert (first["trigger"], second["trigger"]) == ("certificate", "start")
    assert [each["after"] for each in first["changes"]] == [f"{unstarted.mint.newest.certificate.serial_number:040x}"]
    stats = agent("request", "GET", "stats", "--run-dir", unstarted.run_dir)
    assert (stats.code, "server.uptime" in stats.out) == (0, True)
    missing = agent("request", "GET", "no-such-page", "--run-dir", unstarted.run_dir)
    assert (missing.code, missing.err) == (1, "agent: GET /no-such-page is answered with 404\n")
    nobody = agent("request", "GET", "stats", "--epoch", 99, "--run-dir", unstarted.run_dir)
    assert nobody.code == 1
