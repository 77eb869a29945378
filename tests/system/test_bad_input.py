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

GARBAGE = b"-----BEGIN CERTIFICATE-----\nnot base64 at all\n-----END CERTIFICATE-----\n"
Spoil = Callable[[AgentFixture], None]


def garbage(bed: AgentFixture) -> None:
    (bed.certs / CHAIN).write_bytes(GARBAGE)


def truncated(bed: AgentFixture) -> None:
    leaf = bed.mint.spare()
    IN_PLACE.again(bed.certs, Files(leaf.chain_pem[: len(leaf.chain_pem) // 2], leaf.key_pem))


def mismatched(bed: AgentFixture) -> None:
    RENAMED.again(bed.certs, Files(bed.mint.spare().chain_pem, bed.mint.spare().key_pem))


def expired(bed: AgentFixture) -> None:
    IN_PLACE.again(bed.certs, bed.mint.expired())


def empty(bed: AgentFixture) -> None:
    (bed.certs / KEY).write_bytes(b"")


def missing(bed: AgentFixture) -> None:
    (bed.certs / CHAIN).unlink()


def no_directory(bed: AgentFixture) -> None:
    for path in bed.certs.iterdir():
        path.unlink()
    bed.certs.rmdir()


def goes_on_serving(bed: AgentFixture, spoil: Spoil, word: str, files: int = 1) -> None:
    """Damage the input: one warning with this word for each bad file, and no other effect."""
    before = bed.serving()
    bed.journal.mark()
    with stopped(bed.agent_pid):  # it reads the damaged input, not an earlier state
        spoil(bed)
    eventually(lambda: bed.journal.complaints(word), what=f"a complaint about {word}")
    throughout(lambda: bed.serving() == before, span=0.4, what="the old epoch serves")
    lines = [entry.body for entry in bed.journal.complaints(word)]
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
def test_a_bad_certificate_is_named_and_the_old_one_serves_on(spoil: Spoil, bed: AgentFixture, loads: Loads) -> None:
    loads.gentle(bed.tls, bed.plain)
    goes_on_serving(bed, spoil, str(bed.certs), files=2 if spoil is no_directory else 1)
    assert bed.serial_served() == serial(bed.mint.newest)
    bed.certs.mkdir(exist_ok=True)
    bed.rotate()
    bed.served()
    nothing_failed(loads.finish(at_least=20))


def test_a_bundle_without_our_authority_is_held_back(bed_apart: AgentFixture, loads: Loads) -> None:
    bed, root, other = bed_apart, authority().pem, authority("somebody else").pem
    bed.bootstrap.secured = [Secured(bed.certs / CHAIN, bed.certs / KEY, trusted=bed.certs / ROOT)]
    bed.prepare()
    (bed.certs / ROOT).write_bytes(root)
    bed.launch()
    bed.ready()
    loads.gentle(bed.tls, bed.plain)
    goes_on_serving(bed, lambda bed: replace_root(bed, other), ROOT)
    first = bed.serving().number
    replace_root(bed, root + other)
    eventually(lambda: bed.serving().number > first, what="the repaired bundle serves")
    nothing_failed(loads.finish(at_least=20))


def replace_root(bed: AgentFixture, pem: bytes) -> None:
    """Write other authorities into the bundle."""
    (bed.certs / ROOT).write_bytes(pem)


def first_route(tree: Json) -> Json:
    """Return the route of the first listener, for changes."""
    manager: Json = tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    route: Json = manager["route_config"]["virtual_hosts"][0]["routes"][0]
    return route


def unknown_field(bed: AgentFixture) -> None:
    replace(bed.config, bed.bootstrap.text() + "no_such_field: true\n")


def unknown_cluster(bed: AgentFixture) -> None:
    tree = bed.bootstrap.tree()
    route = first_route(tree)
    del route["direct_response"]
    route["route"] = {"cluster": "nowhere"}
    replace(bed.config, yaml.safe_dump(tree))


def half_written(bed: AgentFixture) -> None:
    text = bed.bootstrap.text()
    bed.config.write_text(text[: len(text) // 2] + ": [", encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "word"), [(unknown_field, "no_such_field"), (unknown_cluster, "nowhere"), (half_written, "envoy.yaml")]
)
def test_what_is_wrong_with_a_configuration_is_said_and_the_old_one_serves_on(
    spoil: Spoil, word: str, bed: AgentFixture, loads: Loads
) -> None:
    loads.gentle(bed.tls, bed.plain)
    goes_on_serving(bed, spoil, word)
    bed.rotate()
    bed.served()  # with the previous configuration
    bed.bootstrap.body = "repaired\n"
    bed.bootstrap.write(bed.config)
    eventually(lambda: body_of(bed.plain) == b"repaired\n", what="the repaired configuration serves")
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.parametrize(
    "spoil", [exits_at_once, *(pytest.param(one, marks=pytest.mark.long) for one in (never_ready, never_answers))]
)
def test_a_bad_binary_is_named_and_the_old_one_serves_on(
    spoil: Callable[[Path], None], bed_apart: AgentFixture, loads: Loads, binary: Path
) -> None:
    bed = bed_apart
    bed.binary = bed.directory / "proxy"
    link(bed.binary, binary)
    bed.prepare()
    bed.more_flags += ["--on-binary", "restart", "--start-deadline", bed.ten_starts()]
    bed.launch()
    bed.ready()
    loads.gentle(bed.tls, bed.plain)
    before = bed.serving()
    bed.journal.mark()
    spoil(bed.binary)
    eventually(bed.journal.complaints, what="a complaint")
    throughout(lambda: bed.serving() == before, span=1, what="the old epoch serves")
    link(bed.binary, binary)
    bed.rotate()
    bed.served()
    nothing_failed(loads.finish(at_least=20))


def test_of_fifty_pairs_the_good_are_new_and_the_bad_stay(bed_apart: AgentFixture, loads: Loads) -> None:
    bed, names = bed_apart, [f"s{number:02}.test" for number in range(50)]
    bed.bootstrap.secured = [Secured(bed.certs / f"{name}.crt", bed.certs / f"{name}.key", name) for name in names]
    bed.bootstrap.write(bed.config)
    bed.certs.mkdir()
    old, new = ({name: bed.mint.leaf(name) for name in names} for _ in range(2))
    put(bed, old)
    bed.launch()
    eventually(lambda: shown(bed, names) == serials(old), what="fifty certificates are served")
    loads.gentle(named(bed, names[0]), bed.plain)
    spoils = cycle([b"", GARBAGE, b"not even PEM", bed.mint.spare().chain_pem])
    bad = names[::3]
    assert len(bad) == 17
    good = {name: new[name] for name in names if name not in bad}
    put(bed, {name: Files(next(spoils), old[name].key_pem) for name in bad})
    put(bed, good)
    last = list(good)[-1]
    eventually(lambda: shown(bed, [last]) == serials({last: new[last]}), what="the last one written is new")
    wanted = serials(old) | serials(good)
    eventually(lambda: shown(bed, names) == wanted, what="the old one accepts no more")
    nothing_failed(loads.finish(at_least=20))


def put(bed: AgentFixture, pairs: Mapping[str, Pair]) -> None:
    """Write pairs, each in two files of its name, in sequence."""
    for name, pair in pairs.items():
        (bed.certs / f"{name}.crt").write_bytes(pair.chain_pem)
        (bed.certs / f"{name}.key").write_bytes(pair.key_pem)


def serials(pairs: Mapping[str, Pair]) -> dict[str, int]:
    """Return the serial of each pair."""
    return {name: serial(pair) for name, pair in pairs.items()}


def shown(bed: AgentFixture, names: list[str]) -> dict[str, int]:
    """Return the served serial for each name."""
    return {name: serial_served(named(bed, name)) for name in names}


def named(bed: AgentFixture, name: str) -> Target:
    """Return the TLS listener, with this server name."""
    return Target(bed.tls.host, bed.tls.port, tls=True, server_name=name)
