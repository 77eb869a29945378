"""The generated configuration serves every pair by the names in its certificate."""

import os
from pathlib import Path

import pytest

from agent.certificates.references import Reference, Role
from agent.proxies.nginx.configuration import Configuration
from agent.proxies.nginx.default_configuration import default_configuration
from tests.pki import Authority
from tests.proxies.nginx.configurations import accepts, memory, parsed, wants_nginx


def pair(name: str) -> list[Reference]:
    return [Reference(f"/c/{name}.crt", Role.CHAIN, name), Reference(f"/c/{name}.key", Role.KEY, name)]


REFERENCES = [*pair("a"), *pair("b"), *pair("c"), Reference("/c/ca.pem", Role.BUNDLE, "/c/ca.pem")]
NAMES = {"a": ("A.test", "*.a.test"), "b": ("b.test", "x;y", "2001:db8::1"), "c": ("*.a.test", "a.test")}


def made(listen: tuple[str, int] = ("0.0.0.0", 15443), forward: tuple[str, int] = ("127.0.0.1", 8080)) -> Configuration:
    return parsed(default_configuration(listen, forward, REFERENCES, NAMES))


def test_every_pair_is_served_and_nothing_else() -> None:
    assert {each.path for each in made().references} == {f"/c/{x}.{y}" for x in "abc" for y in ("crt", "key")}
    assert [each.place.address for each in made().listeners] == ["tcp://0.0.0.0:15443"]


def test_pairs_of_the_same_names_share_a_server_and_others_have_their_own() -> None:
    text = default_configuration(("::", 443), ("::1", 80), REFERENCES, NAMES)
    servers = text.split("server {")[1:]
    assert [[x for x in "abc" if f"/c/{x}.crt" in server] for server in servers] == [["a", "c"], ["b"]]
    assert "server_name *.a.test a.test;" in servers[0]
    assert "server_name b.test;" in servers[1]
    assert all("listen [::]:443 ssl;" in server and "proxy_pass http://[::1]:80;" in server for server in servers)


@pytest.mark.parametrize("names", [{}, {"a": ()}, {"a": ("x y",)}])
def test_a_certificate_without_a_usable_name_is_served_to_any_client(names: dict[str, tuple[str, ...]]) -> None:
    assert 'server_name "";' in default_configuration(("::", 443), ("::1", 80), pair("a"), names)


@wants_nginx
def test_nginx_takes_it_whatever_the_files_are_called(tmp_path: Path) -> None:
    leaf = Authority.create("ca").issue(["a.test"])
    names = ['/c/a: "b" #.crt', "/c/{é}\\t.key"]
    found = [Reference(names[0], Role.CHAIN, "u"), Reference(names[1], Role.KEY, "u")]
    configuration = parsed(default_configuration(("::1", 15443), ("127.0.0.1", 8080), found, {"u": ("a.test",)}))
    files = {names[0]: memory(leaf.chain_pem), names[1]: memory(leaf.key_pem)}
    try:
        text, _ = configuration.copies(files.keys()).fill(str(tmp_path), 1, files)
        (tmp_path / "n.conf").write_text(text, encoding="utf-8")
        ok, said = accepts(tmp_path / "n.conf")
        assert ok, said
    finally:
        for descriptor in files.values():
            os.close(descriptor)
