"""With any input on disk, the serving epoch continues; a message states the reason, and a repair takes effect."""

from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path

import pytest
import yaml

from tests.system.agent_fixture import AgentFixture
from tests.system.bare import body_of, serial_served
from tests.system.bootstrap import Json, Secured, replace
from tests.system.certificates import Files, Pair, authority, serial
from tests.system.eventually import eventually, throughout
from tests.system.layouts import CHAIN, IN_PLACE, KEY, RENAMED, ROOT
from tests.system.loads import Loads, nothing_failed
from tests.system.room import stopped
from tests.system.stand_ins import exits_at_once, link, never_answers, never_ready
from tests.system.wire import Target

pytestmark = pytest.mark.pushed

GARBAGE = b"-----BEGIN CERTIFICATE-----\nnot base64 at all\n-----END CERTIFICATE-----\n"
Spoil = Callable[[AgentFixture], None]


def garbage(instance: AgentFixture) -> None:
    (instance.certs / CHAIN).write_bytes(GARBAGE)


def truncated(instance: AgentFixture) -> None:
    leaf = instance.mint.spare()
    IN_PLACE.again(instance.certs, Files(leaf.chain_pem[: len(leaf.chain_pem) // 2], leaf.key_pem))


def mismatched(instance: AgentFixture) -> None:
    RENAMED.again(instance.certs, Files(instance.mint.spare().chain_pem, instance.mint.spare().key_pem))


def expired(instance: AgentFixture) -> None:
    IN_PLACE.again(instance.certs, instance.mint.expired())


def empty(instance: AgentFixture) -> None:
    (instance.certs / KEY).write_bytes(b"")


def missing(instance: AgentFixture) -> None:
    (instance.certs / CHAIN).unlink()


def no_directory(instance: AgentFixture) -> None:
    for path in instance.certs.iterdir():
        path.unlink()
    instance.certs.rmdir()


def goes_on_serving(instance: AgentFixture, spoil: Spoil, word: str, files: int = 1) -> None:
    """Damage the input: one warning with this word for each bad file, and no other effect."""
    before = instance.serving()
    instance.journal.mark()
    with stopped(instance.agent_pid):  # it reads the damaged input, not an earlier state
        spoil(instance)
    eventually(lambda: instance.journal.complaints(word), what=f"a complaint about {word}")
    throughout(lambda: instance.serving() == before, span=0.4, what="the old epoch serves")
    lines = [entry.body for entry in instance.journal.complaints(word)]
    assert len(lines) == files, f"one clear line a file, not {len(lines)}: {lines}"


@pytest.mark.parametrize(
    "spoil",
    [
        garbage,
        mismatched,
        expired,
        no_directory,
        *(pytest.param(one, marks=pytest.mark.long) for one in (truncated, empty, missing)),
    ],
)
def test_a_bad_certificate_is_named_and_the_old_one_serves_on(
    spoil: Spoil, instance: AgentFixture, loads: Loads
) -> None:
    loads.gentle(instance.tls, instance.plain)
    goes_on_serving(instance, spoil, str(instance.certs), files=2 if spoil is no_directory else 1)
    assert instance.serial_served() == serial(instance.mint.newest)
    instance.certs.mkdir(exist_ok=True)
    instance.rotate()
    instance.served()
    nothing_failed(loads.finish(at_least=20))


def test_a_bundle_without_our_authority_is_held_back(unstarted: AgentFixture, loads: Loads) -> None:
    instance, root, other = unstarted, authority().pem, authority("somebody else").pem
    instance.bootstrap.secured = [Secured(instance.certs / CHAIN, instance.certs / KEY, trusted=instance.certs / ROOT)]
    instance.prepare()
    (instance.certs / ROOT).write_bytes(root)
    instance.launch()
    instance.ready()
    loads.gentle(instance.tls, instance.plain)
    goes_on_serving(instance, lambda instance: replace_root(instance, other), ROOT)
    first = instance.serving()
    replace_root(instance, root + other)
    eventually(lambda: instance.serving().revision != first.revision, what="the repaired bundle serves")
    nothing_failed(loads.finish(at_least=20))


def replace_root(instance: AgentFixture, pem: bytes) -> None:
    """Write other authorities into the bundle."""
    (instance.certs / ROOT).write_bytes(pem)


def first_route(tree: Json) -> Json:
    """Return the route of the first listener, for changes."""
    manager: Json = tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    route: Json = manager["route_config"]["virtual_hosts"][0]["routes"][0]
    return route


def unknown_field(instance: AgentFixture) -> None:
    replace(instance.config, instance.bootstrap.text() + "no_such_field: true\n")


def unknown_cluster(instance: AgentFixture) -> None:
    tree = instance.bootstrap.tree()
    route = first_route(tree)
    del route["direct_response"]
    route["route"] = {"cluster": "nowhere"}
    replace(instance.config, yaml.safe_dump(tree))


def half_written(instance: AgentFixture) -> None:
    text = instance.bootstrap.text()
    instance.config.write_text(text[: len(text) // 2] + ": [", encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "word"), [(unknown_field, "no_such_field"), (unknown_cluster, "nowhere"), (half_written, "envoy.yaml")]
)
def test_what_is_wrong_with_a_configuration_is_said_and_the_old_one_serves_on(
    spoil: Spoil, word: str, instance: AgentFixture, loads: Loads
) -> None:
    loads.gentle(instance.tls, instance.plain)
    goes_on_serving(instance, spoil, word)
    instance.rotate()
    instance.served()  # with the previous configuration
    instance.bootstrap.body = "repaired\n"
    instance.bootstrap.write(instance.config)
    eventually(lambda: body_of(instance.plain) == b"repaired\n", what="the repaired configuration serves")
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.parametrize(
    "spoil", [exits_at_once, *(pytest.param(one, marks=pytest.mark.long) for one in (never_ready, never_answers))]
)
def test_a_bad_binary_is_named_and_the_old_one_serves_on(
    spoil: Callable[[Path], None], unstarted: AgentFixture, loads: Loads, binary: Path
) -> None:
    instance = unstarted
    instance.binary = instance.directory / "proxy"
    link(instance.binary, binary)
    instance.prepare()
    instance.more_flags += ["--on-binary", "restart", "--start-deadline", instance.ten_starts()]
    instance.launch()
    instance.ready()
    loads.gentle(instance.tls, instance.plain)
    before = instance.serving()
    instance.journal.mark()
    spoil(instance.binary)
    eventually(instance.journal.complaints, what="a complaint")
    throughout(lambda: instance.serving() == before, span=1, what="the old epoch serves")
    link(instance.binary, binary)
    instance.rotate()
    instance.served()
    nothing_failed(loads.finish(at_least=20))


def test_of_fifty_pairs_the_good_are_new_and_the_bad_stay(unstarted: AgentFixture, loads: Loads) -> None:
    instance, names = unstarted, [f"s{number:02}.test" for number in range(50)]
    instance.bootstrap.secured = [
        Secured(instance.certs / f"{name}.crt", instance.certs / f"{name}.key", name) for name in names
    ]
    instance.bootstrap.write(instance.config)
    instance.certs.mkdir()
    old, new = ({name: instance.mint.leaf(name) for name in names} for _ in range(2))
    put(instance, old)
    instance.launch()
    eventually(lambda: shown(instance, names) == serials(old), what="fifty certificates are served")
    loads.gentle(named(instance, names[0]), instance.plain)
    spoils = cycle([b"", GARBAGE, b"not even PEM", instance.mint.spare().chain_pem])
    bad = names[::3]
    assert len(bad) == 17
    good = {name: new[name] for name in names if name not in bad}
    put(instance, {name: Files(next(spoils), old[name].key_pem) for name in bad})
    put(instance, good)
    last = list(good)[-1]
    eventually(lambda: shown(instance, [last]) == serials({last: new[last]}), what="the last one written is new")
    wanted = serials(old) | serials(good)
    eventually(lambda: shown(instance, names) == wanted, what="the old one accepts no more")
    nothing_failed(loads.finish(at_least=20))


def put(instance: AgentFixture, pairs: Mapping[str, Pair]) -> None:
    """Write pairs, each in two files of its name, in sequence."""
    for name, pair in pairs.items():
        (instance.certs / f"{name}.crt").write_bytes(pair.chain_pem)
        (instance.certs / f"{name}.key").write_bytes(pair.key_pem)


def serials(pairs: Mapping[str, Pair]) -> dict[str, int]:
    """Return the serial of each pair."""
    return {name: serial(pair) for name, pair in pairs.items()}


def shown(instance: AgentFixture, names: list[str]) -> dict[str, int]:
    """Return the served serial for each name."""
    return {name: serial_served(named(instance, name)) for name in names}


def named(instance: AgentFixture, name: str) -> Target:
    """Return the TLS listener, with this server name."""
    return Target(instance.tls.host, instance.tls.port, tls=True, server_name=name)
