"""A manifest holds all that the next agent needs to go on with an epoch, and is believed only as far as it fits."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import BadInput, MachineError
from agent.core.revision import Revision
from agent.host.carried import Carried
from agent.host.memfds import Memfds
from agent.host.slots import Slots
from agent.inputs.revisions import LoadedRevision
from agent.processes.manifest import Manifest
from tests import pki
from tests.processes.fakes import Revisions

LEAF = pki.Authority.create("ca").issue(["a.test"])
CHAIN, KEY, LDS = "/c/tls.crt", "/c/tls.key", "/d/lds.yaml"
TLS = {
    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
    "common_tls_context": {
        "tls_certificates": [{"certificate_chain": {"filename": CHAIN}, "private_key": {"filename": KEY}}]
    },
}
LISTENER = {
    "name": "ä",
    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
    "filter_chains": [{"transport_socket": {"name": "tls", "typed_config": TLS}}],
}
TEXT = json.dumps(
    {
        "static_resources": {"listeners": [LISTENER]},
        "dynamic_resources": {"lds_config": {"path_config_source": {"path": LDS}}},
    },
    ensure_ascii=False,
)

Hold = Callable[[bytes], Carried]


@pytest.fixture
def loaded(revisions: Revisions) -> LoadedRevision:
    made = revisions.load(TEXT, {CHAIN: LEAF.chain_pem, KEY: LEAF.key_pem}, {LDS: b"resources: []  # \xc3\xa4"})
    assert set(made.selection.files) == {CHAIN, KEY}
    return made


@pytest.fixture
def hold(no_descriptor_leaks: None) -> Iterator[Hold]:
    """Hold bytes in sealed memory, as an epoch carries its manifest."""
    memfds = Memfds()
    yield lambda data: Carried.of(memfds.hold("manifest", data))
    memfds.close()


def test_what_is_written_is_read_from_the_process_that_carries_it(loaded: LoadedRevision, hold: Hold) -> None:
    written = Manifest.of(loaded)
    assert Manifest.carried_by(os.getpid(), hold(written.to_bytes())) == written


def test_it_names_the_revision_and_the_configuration(loaded: LoadedRevision) -> None:
    manifest = Manifest.of(loaded)
    assert manifest.revision == loaded.revision
    assert (manifest.digest, manifest.shape) == (loaded.revision.digest, loaded.revision.config_digest)
    assert (manifest.name, manifest.text, manifest.config_yaml) == ("/etc/envoy.yaml", TEXT, None)
    assert manifest.resources == {LDS: "resources: []  # ä"}


def test_it_names_each_file_by_a_descriptor_that_holds_its_bytes(loaded: LoadedRevision) -> None:
    files = Manifest.of(loaded).files
    assert {path: carried.read(os.getpid()) for path, carried in files.items()} == {
        CHAIN: LEAF.chain_pem,
        KEY: LEAF.key_pem,
    }


def test_it_names_the_program_by_the_file_that_is_open(loaded: LoadedRevision) -> None:
    manifest = Manifest.of(loaded)
    assert manifest.program.is_carried_by(os.getpid())
    assert manifest.program.inode == Path("/bin/true").stat().st_ino
    assert manifest.program_path == "/bin/true"
    assert manifest.identity == loaded.program.binary.identity
    assert (manifest.program_version, manifest.handoff, manifest.reads_json) == ("1.40.0", "11.104", True)


def test_no_key_and_no_certificate_is_in_it(loaded: LoadedRevision) -> None:
    data = Manifest.of(loaded).to_bytes()
    assert b"PRIVATE KEY" not in data
    assert b"CERTIFICATE" not in data


def test_slots_are_named_by_descriptors_that_are_written(loaded: LoadedRevision, hold: Hold) -> None:
    slots = Slots.make({CHAIN: loaded.descriptors[CHAIN]})
    try:
        pushable = replace(loaded, revision=Revision("d", "c", "base"))
        manifest = Manifest.carried_by(os.getpid(), hold(Manifest.of(pushable, slots).to_bytes()))
        assert {path: tuple(each.descriptor for each in two) for path, two in manifest.slots.items()} == {
            CHAIN: slots.of(CHAIN)
        }
        assert all(each.is_carried_by(os.getpid()) for each in manifest.slots[CHAIN])
        assert manifest.revision.push_base == "base"
    finally:
        slots.close()
    assert Manifest.of(loaded).slots == {}


def tree_of(loaded: LoadedRevision) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(Manifest.of(loaded).to_bytes())
    return tree


def read(tree: object, hold: Hold) -> Manifest:
    return Manifest.carried_by(os.getpid(), hold(json.dumps(tree).encode()))


def test_one_without_slots_has_no_field_that_an_older_agent_does_not_know(loaded: LoadedRevision) -> None:
    assert not json.loads(Manifest.of(loaded).to_bytes()).keys() & {"push_base", "slots"}


def test_fields_that_an_older_agent_did_not_write_have_defaults(loaded: LoadedRevision, hold: Hold) -> None:
    tree = tree_of(loaded)
    del tree["reads_json"], tree["resources"]
    older = read(tree, hold)
    assert (older.reads_json, older.resources, older.slots, older.push_base) == (True, {}, {}, "")
    assert older.revision == Revision(tree["digest"], tree["shape"])


@pytest.mark.parametrize("form", [1, 3, "2", None])
def test_one_of_another_kind_of_agent_is_not_believed(loaded: LoadedRevision, hold: Hold, form: object) -> None:
    with pytest.raises(BadInput, match=rf"{os.getpid()}.* incompatible"):
        read(tree_of(loaded) | {"format": form}, hold)


@pytest.mark.parametrize(
    "field", ["format", "digest", "shape", "name", "text", "config_yaml", "files", "program", "identity", "handoff"]
)
def test_without_what_it_needs_it_makes_no_sense(loaded: LoadedRevision, hold: Hold, field: str) -> None:
    tree = tree_of(loaded)
    del tree[field]
    with pytest.raises(BadInput, match=str(os.getpid())):
        read(tree, hold)


@pytest.mark.parametrize(
    "change",
    [
        {"files": None},
        {"files": [1]},
        {"files": {"/c": 1}},
        {"files": {"/c": {"descriptor": 3}}},
        {"program": 7},
        {"program": {"descriptor": 3, "mount": 1, "inode": 2, "more": 4}},
        {"identity": 5},
        {"slots": {"/c": 1}},
        {"slots": {"/c": [{"descriptor": 3, "mount": 1, "inode": 2}]}},
        {"of_a_newer_agent": 1},
    ],
    ids=str,
)
def test_fields_of_another_form_make_no_sense(loaded: LoadedRevision, hold: Hold, change: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=str(os.getpid())):
        read(tree_of(loaded) | change, hold)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b'"x"', b"null", b"\xff\xfe", b"{}"])
def test_other_bytes_make_no_sense(hold: Hold, data: bytes) -> None:
    with pytest.raises(BadInput, match=str(os.getpid())):
        Manifest.carried_by(os.getpid(), hold(data))


def test_what_is_not_sealed_is_not_believed(loaded: LoadedRevision) -> None:
    """The epoch could change it while it is read."""
    descriptor = os.memfd_create("open")
    try:
        os.write(descriptor, Manifest.of(loaded).to_bytes())
        with pytest.raises(MachineError, match="not sealed"):
            Manifest.carried_by(os.getpid(), Carried.of(descriptor))
    finally:
        os.close(descriptor)


def test_another_file_under_that_number_is_not_read(loaded: LoadedRevision, hold: Hold) -> None:
    carried = hold(Manifest.of(loaded).to_bytes())
    other = Carried(carried.descriptor, carried.mount, carried.inode + 1)
    with pytest.raises(MachineError, match=str(carried.descriptor)):
        Manifest.carried_by(os.getpid(), other)
