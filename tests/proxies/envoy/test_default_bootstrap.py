import os
from pathlib import Path

import pytest
import yaml

from agent.certificates.references import Reference, Role
from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.default_bootstrap import bootstrap
from tests.pki import Authority
from tests.proxies.envoy.envoys import memory, wants_envoy
from tests.proxies.envoy.test_bootstrap import accepts


def pair(name: str) -> list[Reference]:
    return [Reference(f"/c/{name}.crt", Role.CHAIN, name), Reference(f"/c/{name}.key", Role.KEY, name)]


REFERENCES = [*pair("a"), *pair("b"), Reference("/c/ca.pem", Role.BUNDLE, "/c/ca.pem"),
              Reference("/c/alone.crt", Role.CHAIN, "alone")]  # fmt: skip


def test_every_pair_is_served_and_nothing_else() -> None:
    text = bootstrap(("0.0.0.0", 15443), ("127.0.0.1", 8080), REFERENCES)
    found = Configuration(text, "bootstrap.yaml").references
    assert {reference.path for reference in found} == {"/c/a.crt", "/c/a.key", "/c/b.crt", "/c/b.key"}
    assert Configuration(text, "bootstrap.yaml").listeners[0].place.address == "tcp://0.0.0.0:15443"


@pytest.mark.parametrize(("host", "kind"), [("127.0.0.1", "STATIC"), ("::1", "STATIC"), ("app", "STRICT_DNS")])
def test_a_name_is_looked_up_and_a_number_is_not(host: str, kind: str) -> None:
    tree = yaml.safe_load(bootstrap(("::", 1), (host, 2), REFERENCES))
    assert tree["static_resources"]["clusters"][0]["type"] == kind


@wants_envoy
def test_envoy_takes_it_whatever_the_files_are_called(tmp_path: Path) -> None:
    leaf = Authority.create("ca").issue(["a.test"])
    names = ['/c/a: "b" #.crt', "/c/{{é}}.key"]
    found = [Reference(names[0], Role.CHAIN, "u"), Reference(names[1], Role.KEY, "u")]
    configuration = Configuration(bootstrap(("::1", 0), ("localhost", 8080), found), "bootstrap.yaml")
    files = {names[0]: memory(leaf.chain_pem), names[1]: memory(leaf.key_pem)}
    try:
        accepts(configuration, tmp_path, files)
    finally:
        for descriptor in files.values():
            os.close(descriptor)
