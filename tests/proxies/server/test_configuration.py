"""What a server runs from: pairs, names, copies of its arguments and of its configuration."""

import json
from collections.abc import Sequence

import pytest

from agent.certificates.references import Reference, Role
from agent.core.errors import BadInput
from agent.handoff.socket_store import ListenAddress
from agent.proxies.interface import TlsListener
from agent.proxies.server.configuration import Configuration, listing
from agent.proxies.server.listeners import parse
from agent.proxies.server.placeholders import placeholders

WEB, ADMIN = parse(["web=127.0.0.1:8443", "admin=plain:127.0.0.1:8080"])
CHAIN, KEY = "/certs/tls.crt", "/certs/tls.key"


def made(text: str, *arguments: str) -> Configuration:
    return Configuration(text, "/etc/server.conf", arguments, [WEB, ADMIN])


def pairs(*names: str) -> list[Reference]:
    """Return the references to pairs NAME.crt and NAME.key."""
    found = []
    for name in names:
        found.append(Reference(f"/certs/{name}.crt", Role.CHAIN, f"/certs/{name}"))
        found.append(Reference(f"/certs/{name}.key", Role.KEY, f"/certs/{name}"))
    return found


def listed(names: Sequence[str], *arguments: str) -> Configuration:
    text = listing(pairs(*names), placeholders(arguments))
    return Configuration(text, "generated", arguments, [WEB])


def paths(configuration: Configuration) -> set[tuple[str, Role]]:
    return {(each.path, each.role) for each in configuration.references}


def test_a_single_pair_needs_no_name() -> None:
    configuration = listed(["tls"], "{cert}", "{key}")
    assert paths(configuration) == {(CHAIN, Role.CHAIN), (KEY, Role.KEY)}
    assert len({each.group for each in configuration.references}) == 1


def test_a_pair_is_used_by_its_name() -> None:
    configuration = listed(["a", "b"], "{cert:b}", "{key:b}")
    assert paths(configuration) == {("/certs/b.crt", Role.CHAIN), ("/certs/b.key", Role.KEY)}


@pytest.mark.parametrize(
    ("names", "word", "known"),
    [(["a", "b"], "{cert}", "a, b"), (["a"], "{cert:c}", "a"), ([], "{cert}", "none")],
)
def test_a_pair_that_does_not_exist_is_refused(names: list[str], word: str, known: str) -> None:
    with pytest.raises(BadInput) as caught:
        listed(names, word)
    assert str(caught.value).endswith(f"in --certs; the names are: {known}")


def test_a_listing_is_the_same_for_the_same_pairs_in_any_order() -> None:
    used = list(placeholders(["{cert:a} {key:a} {cert:b}"]))
    assert listing(pairs("a", "b"), used) == listing(reversed(pairs("b", "a")), used)


def test_a_pair_that_is_not_used_is_no_part_of_it() -> None:
    used = list(placeholders(["{cert:a} {key:a}"]))
    assert listing(pairs("a"), used) == listing(pairs("a", "b"), used)


def test_with_a_configuration_a_pair_is_named_by_paths() -> None:
    configuration = made(f"cert {{cert:{CHAIN}}};\nkey {{key:{KEY}}};", "-f", "{config}")
    assert paths(configuration) == {(CHAIN, Role.CHAIN), (KEY, Role.KEY)}
    assert len({each.group for each in configuration.references}) == 1


def test_a_certificate_without_a_key_has_it_in_the_same_file() -> None:
    assert paths(made("", "{cert:/a.pem}")) == {("/a.pem", Role.CHAIN), ("/a.pem", Role.KEY)}


def test_pairs_keep_their_order() -> None:
    configuration = made("", "{cert:/a.crt}", "{key:/a.key}", "{cert:/b.crt}", "{key:/b.key}", "{file:/dh.pem}")
    groups: dict[str, list[str]] = {}
    for each in configuration.references:
        groups.setdefault(each.group, []).append(each.path)
    assert list(groups.values()) == [["/a.crt", "/a.key"], ["/b.crt", "/b.key"], ["/dh.pem"]]


def test_with_a_configuration_a_name_without_a_slash_is_refused() -> None:
    with pytest.raises(BadInput, match="with --config it has to be the path of a file"):
        made("x", "{cert:a}")


def test_only_listeners_with_certificates_are_verified() -> None:
    assert made("", "{cert:/a.pem}").tls_listeners == [TlsListener(WEB.place, None)]
    assert made("", "x").tls_listeners == []


def test_each_listener_is_known_with_its_options() -> None:
    given = parse(["a=[::]:1", "b=127.0.0.1:2", "c=unix:/x"])
    found = Configuration("", "x", [], given).listeners
    assert [(each.reuse_port, each.dual_stack) for each in found] == [(True, True), (True, False), (False, False)]
    assert found[2].place == ListenAddress("unix:///x")


# Copies


def test_arguments_have_descriptors_for_names_and_paths() -> None:
    configuration = made("", "--fd", "{fd:admin}", "-b=fd://{fd:web}", "{cert:/a.crt}", "{key:/a.key}", "{file:/out}")
    copies = configuration.copies({"/a.crt", "/a.key"})
    main, extra = copies.fill("/run/1", 1, {"/a.crt": 20, "/a.key": 21})
    assert main == ""
    assert json.loads(extra or "") == ["--fd", "4", "-b=fd://3", "/dev/fd/20", "/dev/fd/21", "/out"]
    assert copies.tree("/run/1", {}) == {}


def test_a_configuration_is_copied_with_its_own_name() -> None:
    configuration = made("pair {cert:/a.crt} {key:/a.key}; other {file} {config}", "-f", "{config}")
    copies, descriptors = configuration.copies({"/a.crt", "/a.key"}), {"/a.crt": 20, "/a.key": 21}
    ((name, data),) = copies.tree("/run/1", descriptors).items()
    assert data == b"pair /dev/fd/20 /dev/fd/21; other {file} {config}"
    assert name.endswith("/server.conf")
    assert json.loads(copies.fill("/run/1", 1, descriptors)[1] or "") == ["-f", f"/run/1/{name}"]
    ((other, _),) = copies.tree("/run/1", {"/a.crt": 22, "/a.key": 21}).items()
    assert other != name


def test_a_configuration_that_no_argument_names_is_not_copied() -> None:
    assert made("x", "-f", "/etc/server.conf").copies(()).tree("/run/1", {}) == {}


def test_copies_are_made_once_and_hold_nothing_more() -> None:
    configuration = made("x", "{config}")
    copies = configuration.copies({"/a"})
    assert configuration.copies({"/a"}) is copies
    assert copies.are_made(as_json=True)
    held = {"/a": 1}
    copies.hold_resources(held, lambda *_: 2)
    assert held == {"/a": 1}
