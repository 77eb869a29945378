"""The generated bootstrap follows the files of a directory under any names, also while they are written."""

import asyncio
import errno
import logging
import math
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from agent.certificates.findings import Fallback, Fault
from agent.certificates.groups import Pin
from agent.certificates.references import Reference, Role
from agent.certificates.selection import LastGood, select_files
from agent.core.errors import MachineError, UsageError
from agent.handoff.segment import HotRestartVersion
from agent.host import clock
from agent.host.binaries import open_binary
from agent.host.disk_thread import DiskThread
from agent.host.processes import Command
from agent.inputs import programs as programs_module
from agent.inputs.loader import Loader, NoPairError, wait_for_change
from agent.inputs.programs import Programs
from agent.inputs.revisions import LoadedRevision, Program, RevisionStore
from agent.inputs.settings import Settings
from agent.proxies.envoy import default_bootstrap
from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from tests.pki import Algorithm, Authority, Leaf

KIND = Envoy(Flags(), 1.0)


def write(directory: Path, chain: str, key: str) -> None:
    """Write a new pair under these names."""
    leaf = Authority.create("ca").issue(["a.test"])
    (directory / chain).write_bytes(leaf.chain_pem)
    (directory / key).write_bytes(leaf.key_pem)


def write_itself(directory: Path, chain: str, key: str) -> None:
    """Write a new pair whose certificate is its own authority, as `openssl req -x509` creates."""
    authority = Authority.create("a.test")
    (directory / chain).write_bytes(authority.pem)
    (directory / key).write_bytes(Leaf(authority.certificate, authority.pem, authority.key).key_pem)


@asynccontextmanager
async def opened(
    directory: Path,
    configuration: Path | None = None,
    alarm_timeout: float = 2.0,
    program: Path | None = None,
    watched: tuple[Path, ...] = (),
    certificates: tuple[Path, ...] | None = None,
    *,
    restarts: bool = False,
    document: bytes | None = None,
    override: Path | None = None,
    renew: Callable[[], bytes] | None = None,
) -> AsyncIterator[Loader]:
    """A loader of this directory, whose program is known already unless one is given.

    `certificates`: the directories of --certs, this one by default. `restarts`: a new program counts. `document`: the
    configuration as data, and `renew` what makes it anew; `override`: a document that is merged over it.
    """
    path = program or Path("/bin/true")
    settings = Settings(
        proxy=str(path),
        kind=KIND,
        certificates=(directory,) if certificates is None else certificates,
        config=configuration,
        watched=watched,
        run_directory=directory / "run",
        listen="tcp://127.0.0.1:1",
        forward="tcp://127.0.0.1:2",
        alarm_timeout=alarm_timeout,
        restart_on_binary=restarts,
        document=document,
        renew_document=renew,
        override=override,
        override_values={"$(HOST_IP)": "10.0.0.1"},
    )
    files = DiskThread(lambda: None, notice=lambda _: None)
    programs, revisions = Programs(path, KIND, None), RevisionStore()
    if program is None:
        programs.adopt(Program(open_binary(path), KIND, "1.0", HotRestartVersion(11, 104)))
    try:
        yield Loader(settings, programs, revisions, files)
    finally:
        revisions.keep_only(set())
        if programs.current is not None:
            programs.current.binary.close()
        await files.close()


async def serve(loader: Loader, directory: Path) -> None:
    """Mark the content of the directory as served."""
    references = (await loader.discover()).references
    contents = {each.path: Path(each.path).read_bytes() for each in references}
    selection = select_files(references, contents, LastGood(), datetime.now(UTC))
    loader.serves(cast("LoadedRevision", SimpleNamespace(selection=selection, source=None)))


@pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
async def test_an_empty_configuration_is_not_taken_for_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "envoy.yaml").write_text(text)
    async with opened(tmp_path, tmp_path / "envoy.yaml") as loader:
        result = await loader.load()
    assert result.loaded is None
    (message,) = [message for _, reason, message in loader.complaints() if reason == "configuration"]
    assert message == f"cannot read {tmp_path}/envoy.yaml: it is empty; write it"


def node_of(loaded: LoadedRevision) -> tuple[str | None, str | None]:
    """Return the node's id and cluster."""
    return cast("Configuration", loaded.configuration).node


async def test_a_configuration_may_be_given_as_data(tmp_path: Path) -> None:
    async with opened(tmp_path, document=b'{"node": {"id": "x"}}', certificates=()) as loader:
        result = await loader.load()
        assert result.loaded is not None
        assert node_of(result.loaded) == ("x", None)
        assert loader.configuration_name == "bootstrap.json"


async def test_a_configuration_that_is_data_is_renewed_with_the_next_revision_only(tmp_path: Path) -> None:
    labels, override = ["a"], tmp_path / "override.json"
    override.write_text('{"node": {"cluster": "one"}}')

    def renew() -> bytes:
        if not labels:
            message = "cannot read the labels"
            raise UsageError(message)
        return f'{{"node": {{"id": "{labels[0]}"}}}}'.encode()

    async with opened(tmp_path, document=renew(), override=override, renew=renew) as loader:
        first = await made(loader)
        labels[0] = "b"
        assert (await made(loader)).revision == first.revision, "a label is no reason for a new epoch"
        override.write_text('{"node": {"cluster": "two"}}')
        second = await made(loader)
        assert (node_of(first), node_of(second)) == (("a", "one"), ("b", "two"))
        assert (await made(loader)).revision == second.revision
        labels.clear()
        override.write_text('{"node": {"cluster": "three"}}')
        assert node_of(await made(loader)) == ("b", "three")


async def test_an_override_is_merged_and_watched(tmp_path: Path) -> None:
    configuration, override = tmp_path / "envoy.yaml", tmp_path / "override.json"
    configuration.write_text("node: {id: a}\nadmin: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}\n")
    override.write_text('{"node": {"cluster": "$(HOST_IP)"}}')
    async with opened(tmp_path, configuration, override=override) as loader:
        first = (await loader.load()).loaded
        assert first is not None
        assert node_of(first) == ("a", "10.0.0.1")
        assert str(override) in loader._watched_paths()
        again = (await loader.load()).loaded
        assert again is not None
        assert again.revision == first.revision
        override.write_text('{"node": {"cluster": "b"}}')
        second = (await loader.load()).loaded
        assert second is not None
        assert node_of(second) == ("a", "b")
        assert second.revision != first.revision


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot read .*/override\.json: "),
        (b"", r"cannot read .*/override\.json: it is empty; write it"),
        (b"\xff", r"cannot read .*/override\.json: byte 0 is not UTF-8"),
        (b"[1]", r"cannot read .*/override\.json: its root is not a mapping"),
    ],
)
async def test_an_override_that_cannot_be_used_is_a_verdict(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    override = tmp_path / "override.json"
    override.write_text('{"node": {"cluster": "b"}}')
    async with opened(tmp_path, document=b'{"node": {"id": "x"}}', override=override) as loader:
        first = (await loader.load()).loaded
        assert first is not None
        override.unlink() if content is None else override.write_bytes(content)
        second = await loader.load()
        assert second.loaded is not None
        assert second.loaded.revision == first.revision, "the last good one stays"
        (complaint,) = [text for _, reason, text in loader.complaints() if reason == "configuration"]
    assert re.match(message, complaint)


async def test_without_a_pair_the_message_names_the_file_and_not_the_configuration(tmp_path: Path) -> None:
    write(tmp_path, "tls.crt", "other.key")
    write(tmp_path, "other.crt", "tls.key")
    (tmp_path / "other.crt").unlink()
    (tmp_path / "other.key").unlink()
    async with opened(tmp_path, alarm_timeout=0.0) as loader:
        result = await loader.load()
        assert result.missing == (f"a certificate with its key in {tmp_path}",)
        ((path, fault),) = [(each.path, each.fault) for each in loader.reports.refusals]
        assert (path, fault) == (f"{tmp_path}/tls.key", Fault.MISMATCH)
        assert [message for message in result.refused if "does not fit the leaf" in message]
        assert not list(loader.complaints())
        write(tmp_path, "tls.crt", "tls.key")
        assert (await loader.load()).loaded is not None
        assert not loader.reports.refusals


async def test_what_lies_beside_the_pairs_is_said_once_it_is_no_write_under_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "tls.crt", "tls.key")
    write(tmp_path, "b.crt", "b.key")
    (tmp_path / "b.key").write_bytes((tmp_path / "b.key").read_bytes()[:100])
    write(tmp_path, "tls.crt.old", ".key")
    (tmp_path / "store.p12").write_bytes(b"\x30\x82\x01\x00")
    async with opened(tmp_path, alarm_timeout=0.1) as loader:
        result = await loader.load()
        assert result.loaded is not None
        assert result.again_at is not None
        assert not result.refused, "an agent restart is none of its business"
        assert not caplog.records
        await asyncio.sleep(0.15)
        for _ in range(2):
            await loader.load()
        assert [each.path for each in loader.reports.refusals] == [f"{tmp_path}/b.key"]
    said = sorted(each.getMessage().partition(":")[0] for each in caplog.records if each.levelno == logging.WARNING)
    assert said == [f"{tmp_path}/tls.crt.old is not used", f"cannot use {tmp_path}/b.key"]


async def test_the_only_pair_that_turns_bad_is_refused_alone(tmp_path: Path) -> None:
    write(tmp_path, "tls.crt", "tls.key")
    write(tmp_path, "tls.crt.old", ".key")
    async with opened(tmp_path, alarm_timeout=0.0) as loader:
        result = await loader.load()
        assert result.loaded is not None
        loader.serves(result.loaded)
        (tmp_path / "tls.key").write_bytes(b"garbage")
        assert (await loader.load()).loaded is not None
        ((path, meanwhile),) = [(each.path, each.meanwhile) for each in loader.reports.refusals]
    assert (path, meanwhile) == (f"{tmp_path}/tls.key", Fallback.LAST_GOOD)


async def test_names_of_a_write_under_way_are_forgotten_with_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as loader:
        write(tmp_path, "tls.crt", "tls.key")
        at_rest = await loader.small()
        write(tmp_path, "crt.new", "key.new")
        assert await loader.small() != at_rest
        (tmp_path / "crt.new").rename(tmp_path / "tls.crt")
        await loader.small()
        (tmp_path / "key.new").rename(tmp_path / "tls.key")
        assert await loader.small() == at_rest


async def test_a_certificate_of_its_own_authority_is_no_bundle_until_its_key_comes(tmp_path: Path) -> None:
    async with opened(tmp_path) as loader:
        write_itself(tmp_path, "tls.crt", "tls.key")
        at_rest = await loader.small()
        await serve(loader, tmp_path)
        write_itself(tmp_path, ".crt", ".key")
        (tmp_path / ".crt").rename(tmp_path / "tls.crt")
        assert await loader.small() == at_rest
        (tmp_path / ".key").rename(tmp_path / "tls.key")
        assert await loader.small() == at_rest


LDS = "resources: [{name: edge, a: {certificate_chain: {filename: %s/tls.crt}, private_key: {filename: %s/tls.key}}}]"


def resource_file(directory: Path) -> tuple[Path, Path]:
    """A configuration with listeners from a file that names a pair beside it."""
    away = directory / "away"
    away.mkdir()
    write(away, "tls.crt", "tls.key")
    configuration, resources = directory / "envoy.yaml", away / "lds.yaml"
    configuration.write_text(f"dynamic_resources: {{lds_config: {{path_config_source: {{path: {resources}}}}}}}")
    resources.write_text(LDS % (away, away))
    return configuration, resources


async def test_a_file_of_resources_is_read_with_the_files_that_it_names(tmp_path: Path) -> None:
    configuration, resources = resource_file(tmp_path)
    certs = tmp_path / "certs"
    certs.mkdir()
    async with opened(certs, configuration) as loader:
        result = await loader.load()
        assert result.loaded is not None
        assert set(result.loaded.selection.files) == {f"{tmp_path}/away/tls.crt", f"{tmp_path}/away/tls.key"}
        again = await loader.load()
        assert again.loaded is result.loaded, "the same bytes"
        resources.write_text(resources.read_text() + "\n")
        changed = await loader.load()
        assert changed.loaded is not None
        assert changed.loaded.revision.config_digest != result.loaded.revision.config_digest


@pytest.mark.parametrize("content", ["", "resources: [", None])
async def test_one_that_cannot_be_used_leaves_the_last_usable_configuration(
    content: str | None, tmp_path: Path
) -> None:
    configuration, resources = resource_file(tmp_path)
    certs = tmp_path / "certs"
    certs.mkdir()
    async with opened(certs, configuration) as loader:
        before = (await loader.load()).loaded
        resources.unlink() if content is None else resources.write_text(content)
        result = await loader.load()
        assert result.loaded is before
        assert [(path, kind) for path, kind, _ in loader.complaints()] == [(str(resources), "configuration")]
        assert str(resources) in result.refused[0]


async def test_what_the_machine_could_not_read_is_looked_at_again_though_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine had no free descriptors: the new certificate is not at fault, and loads again without a change."""
    write(tmp_path, "tls.crt", "tls.key")
    async with opened(tmp_path) as loader:
        assert await next_look(loader) > 60
        with monkeypatch.context() as short:
            short.setattr("agent.host.files.os.open", out_of_descriptors)
            assert await next_look(loader) <= 1
        assert await next_look(loader) > 60


async def next_look(loader: Loader) -> float:
    """Load; return the seconds until the next load without a change."""
    again_at = (await loader.load()).again_at
    return math.inf if again_at is None else again_at - clock.monotonic()


def out_of_descriptors(*_: object) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_a_file_whose_name_is_no_text_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "tls.crt", "tls.key")
    write(tmp_path, os.fsdecode(b"odd-\xff.crt"), os.fsdecode(b"odd-\xff.key"))
    async with opened(tmp_path) as loader:
        references = (await loader.discover()).references
        assert {Path(each.path).name for each in references} == {"tls.crt", "tls.key"}
        assert b"odd" not in await loader.small()
    assert "odd-\\udcff.crt" in caplog.text


async def test_a_load_makes_the_copies_of_the_configuration_so_that_no_start_waits_for_them(tmp_path: Path) -> None:
    write(tmp_path, "a.crt", "a.key")
    async with ready(tmp_path, configured(tmp_path, "a")) as loader:
        loaded = await made(loader)
        assert loaded.copies.are_made(as_json=loaded.program.reads_json)


async def test_a_loaded_revision_is_stored_before_its_event_is_posted(tmp_path: Path) -> None:
    """The supervisor sees the new revision's files as used, even between the load and its event."""
    write(tmp_path, "tls.crt", "tls.key")
    async with opened(tmp_path) as loader:
        result = asyncio.ensure_future(loader.load())
        while not result.done():
            await asyncio.sleep(0)
            loader._revisions.keep_only({revision for revision in [loader.newest] if revision is not None})
        loaded = result.result().loaded
        assert loaded is not None
        assert loader._revisions[loaded.revision] is loaded


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("names", "key", "days", "taken"),
    [
        (["a.test"], "ecdsa", (-9, -1), False),
        (["a.test"], "ecdsa", (1, 9), False),
        (["a.test", "b.test"], "ecdsa", (-9, -1), True),
        (["a.test"], "rsa", (-9, -1), True),
        (["a.test"], "ecdsa", (-1, 9), True),
    ],
    ids=["expired", "not yet valid", "another name", "another kind of key", "valid"],
)
async def test_a_pair_that_clients_refuse_takes_no_place_of_one_that_they_take(
    names: list[str], key: Algorithm, days: tuple[int, int], taken: bool, tmp_path: Path
) -> None:
    """A proxy shows either of two pairs for one name; if it would show no other, a refused pair does no harm."""
    now = datetime.now(UTC)
    good = Authority.create("ca").issue(["a.test", "c.test"])
    other = Authority.create("ca").issue(names, key, now + days[0] * DAY, now + days[1] * DAY)
    for stem, leaf in (("good", good), ("another", other)):
        (tmp_path / f"{stem}.crt").write_bytes(leaf.chain_pem)
        (tmp_path / f"{stem}.key").write_bytes(leaf.key_pem)
    async with opened(tmp_path, alarm_timeout=0.0) as loader:
        for _ in range(2):
            result = await loader.load()
        assert result.loaded is not None
        assert (f"{tmp_path}/another.crt" in result.loaded.selection.files) is taken
        refused = [(each.path, each.meanwhile) for each in loader.reports.refusals]
    assert refused == ([] if taken else [(f"{tmp_path}/another.crt", Fallback.OTHERS)])


async def test_a_pair_that_ends_leaves_its_place_to_the_one_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    for stem, days in (("a", 1), ("b", 9)):
        leaf = Authority.create("ca").issue(["a.test"], not_before=now - DAY, not_after=now + days * DAY)
        (tmp_path / f"{stem}.crt").write_bytes(leaf.chain_pem)
        (tmp_path / f"{stem}.key").write_bytes(leaf.key_pem)
    async with opened(tmp_path) as loader:
        both = (await loader.load()).loaded
        assert both is not None
        assert len(both.selection.groups) == 2
        loader.serves(both)
        monkeypatch.setattr(clock, "calendar", lambda: now + 2 * DAY)
        later = (await loader.load()).loaded
        assert later is not None
        assert list(later.selection.groups) == [f"{tmp_path}/b.crt"]


# Configurations


@asynccontextmanager
async def ready(
    directory: Path, configuration: Path | None = None, watched: tuple[Path, ...] = ()
) -> AsyncIterator[Loader]:
    """A loader that logs at once what it refuses."""
    async with opened(directory, configuration, 0.0, None, watched) as loader:
        yield loader


def configured(directory: Path, *pairs: str, more: str = "") -> Path:
    """Write a configuration that names these pairs."""
    line = "%s: {certificate_chain: {filename: %s.crt}, private_key: {filename: %s.key}}"
    path = directory / "envoy.yaml"
    path.write_text("\n".join([*(line % (name, directory / name, directory / name) for name in pairs), more]))
    return path


async def made(loader: Loader) -> LoadedRevision:
    """What a load that succeeds makes."""
    loaded = (await loader.load()).loaded
    assert loaded is not None
    return loaded


def complaints(loader: Loader) -> list[tuple[str, str]]:
    return [(path, kind) for path, kind, _ in loader.complaints()]


async def test_a_new_configuration_that_the_proxy_refuses_leaves_the_served_one_in_use(tmp_path: Path) -> None:
    write(tmp_path, "a.crt", "a.key")
    path = configured(tmp_path, "a")
    async with ready(tmp_path, path) as loader:
        first = await made(loader)
        loader.serves(first)
        configured(tmp_path, "a", more="b: 1")
        second = await made(loader)
        assert second is not first
        loader.refuse(second, "unknown field b")
        assert await made(loader) is first
        assert list(loader.complaints()) == [(str(path), "proxy", "unknown field b")]
        write(tmp_path, "a.crt", "a.key")
        renewed = await made(loader)
        assert (renewed.source.text, renewed.revision != first.revision) == (first.source.text, True)
        loader.forgive()
        assert (await made(loader)).source.text == second.source.text
        assert complaints(loader) == []
        loader.refuse(second, "unknown field b")
        configured(tmp_path, "a", more="c: 1")
        assert (await made(loader)).source.text.endswith(b"c: 1")
        assert complaints(loader) == []


@pytest.mark.parametrize("has_served", [True, False])
async def test_a_refused_revision_of_the_only_configuration_is_not_the_configurations_fault(
    has_served: bool, tmp_path: Path
) -> None:
    write(tmp_path, "a.crt", "a.key")
    async with ready(tmp_path, configured(tmp_path, "a")) as loader:
        first = await made(loader)
        if has_served:
            loader.serves(first)
        loader.refuse(first, "bad certificate")
        assert await made(loader) is first
        assert complaints(loader) == []


async def test_a_refusal_that_names_a_file_of_resources_is_that_files(tmp_path: Path) -> None:
    path, resources = resource_file(tmp_path)
    (tmp_path / "certs").mkdir()
    async with ready(tmp_path / "certs", path) as loader:
        loader.serves(await made(loader))
        resources.write_text(resources.read_text() + "\n")
        loader.refuse(await made(loader), f"cannot parse {resources}")
        await loader.load()
        assert complaints(loader) == [(str(resources), "proxy")]


async def test_a_new_configuration_that_names_a_missing_file_waits_for_it(tmp_path: Path) -> None:
    write(tmp_path, "a.crt", "a.key")
    path = configured(tmp_path, "a")
    async with ready(tmp_path, path) as loader:
        first = await made(loader)
        loader.serves(first)
        configured(tmp_path, "a", "b")
        result = await loader.load()
        assert result.loaded is first
        ((complained, kind, message),) = loader.complaints()
        assert (complained, kind, f"{tmp_path}/b.crt" in message) == (str(path), "configuration", True)
        assert [f"{tmp_path}/b." in text for text in result.refused] == [True, True, True]
        write(tmp_path, "b.crt", "b.key")
        assert set((await made(loader)).selection.groups) == {f"{tmp_path}/a.crt", f"{tmp_path}/b.crt"}
        assert complaints(loader) == []


async def test_the_first_configuration_waits_for_every_file_that_it_names(tmp_path: Path) -> None:
    write(tmp_path, "a.crt", "a.key")
    async with ready(tmp_path, configured(tmp_path, "a", "b")) as loader:
        result = await loader.load()
        assert (result.loaded, result.missing) == (None, (f"{tmp_path}/b.crt",))
        assert complaints(loader) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, ["no such file"]), (b"a: [", ["envoy.yaml"]), (b"a: \xff", ["byte 3", "UTF-8"]), (b" \n", ["empty"])],
)
async def test_a_configuration_that_cannot_be_read_leaves_the_last_one(
    content: bytes | None, words: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "a.crt", "a.key")
    path = configured(tmp_path, "a")
    async with ready(tmp_path, path) as loader:
        first = await made(loader)
        path.unlink() if content is None else path.write_bytes(content)
        for _ in range(2):
            result = await loader.load()
        assert result.loaded is first
        ((complained, kind, message),) = loader.complaints()
        assert (complained, kind) == (str(path), "configuration")
        assert all(word in message for word in (str(path), *words))
        assert message in result.refused
        logged = [vars(each)["event"] for each in caplog.records if each.name == "agent"]
        assert logged.count("config.refused") == 1
        configured(tmp_path, "a")
        assert await made(loader) is first
        assert complaints(loader) == []


async def test_without_any_configuration_its_path_is_missing(tmp_path: Path) -> None:
    async with ready(tmp_path, tmp_path / "envoy.yaml") as loader:
        result = await loader.load()
        assert (result.loaded, result.missing) == (None, (f"{tmp_path}/envoy.yaml",))


async def test_a_configuration_that_the_machine_cannot_read_is_no_fault_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a.crt", "a.key")
    path = configured(tmp_path, "a")
    async with ready(tmp_path, path) as loader:
        await made(loader)
        with monkeypatch.context() as short:
            short.setattr("agent.host.files.os.open", out_of_descriptors)
            with pytest.raises(MachineError, match=str(path)):
                await loader.load()
        assert complaints(loader) == []


async def test_a_directory_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    async with ready(tmp_path / "none") as loader:
        (missing,) = (await loader.load()).missing
    assert f"{tmp_path}/none" in missing
    assert "no such file" in missing


async def test_a_program_that_cannot_be_read_is_complained_about_and_tried_again_in_ten_seconds(
    ordinary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "monotonic", lambda: 1000.0)
    write(ordinary, "a.crt", "a.key")
    program = ordinary / "proxy"
    program.touch(0)
    async with opened(ordinary, program=program) as loader:
        result = await loader.load()
        assert (result.loaded, result.missing, result.again_at) == (None, (str(program),), 1010.0)
        assert complaints(loader) == [(str(program), "program")]
        assert not loader.programs.changed()
        loader.forgive()
        assert loader.programs.changed()


async def test_a_disk_that_hangs_is_complained_about_first(tmp_path: Path) -> None:
    async with ready(tmp_path) as loader:
        loader.silent = (Path("/a"), Path("/b")), "no answer"
        assert list(loader.complaints()) == [("/a", "unreadable", "no answer"), ("/b", "unreadable", "no answer")]


# Groups that the proxy rejects


def pin(loaded: LoadedRevision, name: str) -> Pin:
    return Pin(loaded.selection.groups[name], name, "key too small")


async def test_a_pinned_group_keeps_its_last_good_files_until_its_bytes_change(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path, f"{name}.crt", f"{name}.key")
    async with ready(tmp_path, configured(tmp_path, "a", "b")) as loader:
        first = await made(loader)
        loader.serves(first)
        for name in "ab":
            write(tmp_path, f"{name}.crt", f"{name}.key")
        second = await made(loader)
        assert {each.name for each in loader.renewed(second)} == {f"{tmp_path}/a.crt", f"{tmp_path}/b.crt"}
        loader.pin([pin(second, f"{tmp_path}/a.crt")])
        third = await made(loader)
        assert [each.name for each in loader.renewed(third)] == [f"{tmp_path}/b.crt"]
        assert third.selection.files[f"{tmp_path}/a.crt"] == first.selection.files[f"{tmp_path}/a.crt"]
        loader.serves(third)
        assert await made(loader) is third, "the pin outlives a revision in which it is held back"
        write(tmp_path, "a.crt", "a.key")
        fourth = await made(loader)
        assert [each.name for each in loader.renewed(fourth)] == [f"{tmp_path}/a.crt"]


async def test_a_pin_ends_when_the_group_has_served_or_an_operator_asks(tmp_path: Path) -> None:
    write(tmp_path, "a.crt", "a.key")
    async with ready(tmp_path, configured(tmp_path, "a")) as loader:
        loader.serves(await made(loader))
        write(tmp_path, "a.crt", "a.key")
        second = await made(loader)
        loader.pin([pin(second, f"{tmp_path}/a.crt")])
        assert (await made(loader)) is not second
        loader.forgive()
        assert await made(loader) is second
        loader.pin([pin(second, f"{tmp_path}/a.crt")])
        loader.serves(second)
        assert loader._pins == {}


async def test_a_revision_without_some_groups_is_made_for_a_trial(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path, f"{name}.crt", f"{name}.key")
    a, b = f"{tmp_path}/a.crt", f"{tmp_path}/b.crt"
    async with ready(tmp_path, configured(tmp_path, "a", "b")) as loader:
        first = await made(loader)
        assert await loader.without(first, {a}) is None, "there is nothing else for it"
        loader.serves(first)
        for name in "ab":
            write(tmp_path, f"{name}.crt", f"{name}.key")
        second = await made(loader)
        trial = await loader.without(second, {a})
        assert trial is not None
        assert trial.selection.files[a] == first.selection.files[a]
        assert trial.selection.files[b] == second.selection.files[b]
        assert await made(loader) is second, "the trial changes nothing"
        write(tmp_path, "a.crt", "a.key")
        third = await made(loader)
        assert await loader.without(third, set()) is third
        loader.serves(third)
        assert await loader.without(third, {a}) is None, "what serves cannot be held back"


async def test_a_trial_of_directory_pairs_leaves_out_what_has_not_served(tmp_path: Path) -> None:
    write(tmp_path, "a.crt", "a.key")
    a, b = f"{tmp_path}/a.crt", f"{tmp_path}/b.crt"
    async with ready(tmp_path) as loader:
        first = await made(loader)
        assert await loader.without(first, {a}) is None
        loader.serves(first)
        write(tmp_path, "b.crt", "b.key")
        second = await made(loader)
        trial = await loader.without(second, {b})
        assert trial is not None
        assert list(trial.selection.groups) == [a]
        assert b.encode() not in trial.source.text


async def test_the_groups_of_a_file_of_resources_are_told_if_it_is_the_served_one(tmp_path: Path) -> None:
    path, resources = resource_file(tmp_path)
    (tmp_path / "certs").mkdir()
    async with ready(tmp_path / "certs", path) as loader:
        first = await made(loader)
        assert loader.groups_in(str(resources), first) == frozenset()
        loader.serves(first)
        assert loader.groups_in(str(resources), first) == {f"{tmp_path}/away/tls.crt"}
        resources.write_text(resources.read_text() + "\n")
        assert loader.groups_in(str(resources), await made(loader)) == frozenset()


# What a configuration cannot have


def events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(vars(each)["event"], each.getMessage()) for each in caplog.records if each.name == "agent"]


async def test_files_outside_what_is_watched_are_left_to_the_proxy_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certs, away = tmp_path / "certs", tmp_path / "away"
    for directory in (certs, away):
        directory.mkdir()
        write(directory, "a.crt", "a.key")
    path = configured(certs, "a")
    path.write_text(path.read_text() + f"z: {{trusted_ca: {{filename: {away}/a.crt}}}}\n")
    async with ready(certs, path) as loader:
        for _ in range(2):
            loaded = await made(loader)
        assert set(loaded.selection.files) == {f"{certs}/a.crt", f"{certs}/a.key"}
        ((event, text),) = events(caplog)
        assert (event, f"{away}/a.crt" in text, f"{certs}/" in text) == ("files.unwatched", True, False)
    async with ready(certs, path, (away,)) as loader:
        assert f"{away}/a.crt" in (await made(loader)).selection.files


UDP = "static_resources: {listeners: [{address: {socket_address: {protocol: UDP, address: 127.0.0.1, port_value: 1}}}]}"


async def test_udp_listeners_are_a_limit_that_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "a.crt", "a.key")
    async with ready(tmp_path, configured(tmp_path, "a", more=UDP)) as loader:
        for _ in range(2):
            await loader.load()
    assert [event for event, _ in events(caplog)] == ["config.udp"]


async def test_resources_that_only_the_proxy_can_read_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "agent")
    write(tmp_path, "a.crt", "a.key")
    more = f"dynamic_resources: {{lds_config: {{path_config_source: {{path: {tmp_path}/lds.pb}}}}}}"
    async with ready(tmp_path, configured(tmp_path, "a", more=more)) as loader:
        for _ in range(2):
            await loader.load()
    ((event, text),) = events(caplog)
    assert (event, f"{tmp_path}/lds.pb" in text) == ("config.xds", True)


# Other files


async def test_every_watched_file_makes_a_revision_and_one_that_is_served_as_a_certificate_only_once(
    tmp_path: Path,
) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    write(watched, "a.crt", "a.key")
    single = tmp_path / "single"
    async with ready(tmp_path / "none", configured(watched, "a"), (watched, single)) as loader:
        revisions = [(await made(loader)).revision]
        for path, content in ((watched / "x", b"1"), (watched / "x", b"2"), (watched / "y", b""), (single, b"1")):
            path.write_bytes(content)
            revisions.append((await made(loader)).revision)
        (watched / "y").unlink()
        revisions.append((await made(loader)).revision)
        assert len(set(revisions)) == len(revisions)
        assert (await made(loader)).revision == revisions[-1]
        before = await made(loader)
        loader.serves(before)
        (watched / "a.key").write_bytes(b"garbage")
        assert await made(loader) is before, "of a certificate the used content counts"


async def test_unused_certificates_are_logged_when_a_configuration_names_the_used_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "ab":
        write(tmp_path, f"{name}.crt", f"{name}.key")
    async with ready(tmp_path, configured(tmp_path, "a")) as loader:
        await loader.report_strays()
        assert events(caplog) == []
        await loader.load()
        await loader.report_strays()
    assert [event for event, _ in events(caplog)] == ["certificate.stray"] * 2
    assert [f"{tmp_path}/b.{suffix}" in text for suffix, (_, text) in zip(("crt", "key"), events(caplog), strict=True)]


async def test_without_a_configuration_there_are_no_strays_to_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "a.crt", "a.key")
    write(tmp_path, "b.crt", "c.key")
    async with ready(tmp_path) as loader:
        await loader.load()
        caplog.clear()
        await loader.report_strays()
    assert events(caplog) == []


async def test_many_names_that_are_no_text_are_named_in_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        (tmp_path / os.fsdecode(b"%d-\xff" % number)).touch()
    async with ready(tmp_path) as loader:
        await loader.load()
        (tmp_path / os.fsdecode(b"0-\xff")).unlink()
        await loader.load()
    first, second = [text for event, text in events(caplog) if event == "files.odd_name"]
    assert (first.count("udcff"), second.count("udcff")) == (3, 3)
    assert ("others" in first, "others" in second) == (True, False)


# Programs


@pytest.mark.parametrize("restarts", [True, False])
async def test_a_new_program_is_taken_and_forgives_if_the_operator_wants_that(
    restarts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(command: Command, timeout: float) -> tuple[int, str]:
        return 0, "1.2.3" if "--version" in command.arguments else "11.104"

    caplog.set_level(logging.INFO, "agent")
    monkeypatch.setattr(programs_module, "run", answer)
    certs, program = tmp_path / "certs", tmp_path / "proxy"
    certs.mkdir()
    write(certs, "a.crt", "a.key")
    program.write_text("1")
    async with opened(certs, configured(certs, "a"), program=program, restarts=restarts) as loader:
        first = await made(loader)
        assert [event for event, _ in events(caplog)] == ["proxy.found"]
        loader.serves(first)
        write(certs, "a.crt", "a.key")
        loader.pin([pin(await made(loader), f"{certs}/a.crt")])
        assert (await made(loader)).selection.files == first.selection.files
        old = program.stat().st_ino
        (tmp_path / "new").write_text("2")
        (tmp_path / "new").replace(program)
        second = await made(loader)
        assert program.stat().st_ino != old
        assert (second.program is first.program) is not restarts
        assert (second.selection.files == first.selection.files) is not restarts, "what was refused is tried again"
        assert [event for event, _ in events(caplog)].count("proxy.found") == (2 if restarts else 1)
        loader.programs.forget_unused(set())


async def test_a_program_that_fails_is_logged_once_until_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = {"code": 3}

    async def answer(command: Command, timeout: float) -> tuple[int, str]:
        return answers["code"], "1.2.3" if "--version" in command.arguments else "11.104"

    monkeypatch.setattr(programs_module, "run", answer)
    certs, program = tmp_path / "certs", tmp_path / "proxy"
    certs.mkdir()
    write(certs, "a.crt", "a.key")
    async with opened(certs, configured(certs, "a"), program=program, restarts=True) as loader:
        for content, code in (("1", 3), ("2", 3), ("3", 0), ("4", 3)):
            (tmp_path / "new").write_text(content)
            (tmp_path / "new").replace(program)
            answers["code"] = code
            await loader.load()
        assert complaints(loader) == [(str(program), "program")]
        assert [event for event, _ in events(caplog)] == ["proxy.refused", "proxy.refused"]
        assert loader.programs.current is not None


# Times


async def test_a_load_is_due_when_the_next_certificate_becomes_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime(2026, 5, 4, 12, tzinfo=UTC)
    monkeypatch.setattr(clock, "calendar", lambda: now)
    monkeypatch.setattr(clock, "monotonic", lambda: 1000.0)
    leaf = Authority.create("ca").issue(["a.test"], not_before=now + timedelta(seconds=90), not_after=now + 900 * DAY)
    write(tmp_path, "b.crt", "b.key")
    (tmp_path / "a.crt").write_bytes(leaf.chain_pem)
    (tmp_path / "a.key").write_bytes(leaf.key_pem)
    async with ready(tmp_path) as loader:
        assert (await loader.load()).again_at == 1090.0


@pytest.mark.parametrize(("again_at", "waits"), [(None, True), (1000.5, True), (1000.0, False), (-5.0, False)])
async def test_a_change_is_waited_for_until_the_time_comes(
    again_at: float | None, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "monotonic", lambda: 1000.0)
    changed = asyncio.Event()
    waiting = asyncio.ensure_future(wait_for_change(changed, again_at))
    for _ in range(10):
        await asyncio.sleep(0)
    assert waiting.done() is not waits
    changed.set()
    await waiting


async def test_the_time_that_is_waited_is_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "monotonic", lambda: 1000.0)
    async with asyncio.timeout(10):
        await wait_for_change(asyncio.Event(), 1000.01)


# What is watched


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("restarts", [True, False])
async def test_every_place_that_matters_is_watched(named: bool, restarts: bool, tmp_path: Path) -> None:
    path, resources = resource_file(tmp_path)
    certs, watched = tmp_path / "certs", tmp_path / "watched"
    certs.mkdir()
    async with opened(certs, path if named else None, watched=(watched,), restarts=restarts) as loader:
        write(certs, "a.crt", "a.key")
        await made(loader)
        found = set(loader._watched_paths())
        assert {str(certs), str(watched)} <= found
        assert ({str(path), str(resources), f"{tmp_path}/away/tls.crt"} <= found) is named
        assert (str(loader.programs.path) in found) is restarts


async def test_files_under_watch_are_told_apart_by_name_and_content(tmp_path: Path) -> None:
    """A byte may not move from the name into the content."""
    watched = tmp_path / "watched"
    watched.mkdir()
    certs = tmp_path / "certs"
    certs.mkdir()
    write(certs, "a.crt", "a.key")
    revisions = set()
    async with ready(certs, configured(certs, "a"), (watched,)) as loader:
        for name, content in (("ab", b"c"), ("a", b"bc"), ("abc", b"")):
            (watched / name).write_bytes(content)
            revisions.add((await made(loader)).revision)
            (watched / name).unlink()
    assert len(revisions) == 3


async def test_without_a_pair_the_reasons_stand_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "tls.crt").write_bytes(b"")
    async with ready(tmp_path) as loader:
        with pytest.raises(NoPairError, match=rf"{tmp_path}.*{tmp_path}/tls.crt"):
            await loader.small()
        (tmp_path / "tls.crt").unlink()
        with pytest.raises(NoPairError, match=str(tmp_path)):
            await loader.small()


@pytest.mark.parametrize(("before", "words"), [(True, "stays in use"), (False, "no proxy starts")])
async def test_a_refused_configuration_is_logged_with_what_happens_now(
    before: bool, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "a.crt", "a.key")
    path = configured(tmp_path, "a")
    async with ready(tmp_path, path) as loader:
        if before:
            await made(loader)
        path.write_text("")
        await loader.load()
    ((event, text),) = events(caplog)
    assert (event, words in text) == ("config.refused", True)


async def test_without_certs_the_files_that_the_configuration_names_are_watched(tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    write(tmp_path / "certs", "tls.crt", "tls.key")
    small = default_bootstrap.bootstrap(
        ("127.0.0.1", 1),
        ("127.0.0.1", 2),
        [
            Reference(f"{tmp_path}/certs/tls.crt", Role.CHAIN, "u"),
            Reference(f"{tmp_path}/certs/tls.key", Role.KEY, "u"),
        ],
    )
    (tmp_path / "envoy.yaml").write_text(small)
    async with opened(tmp_path, tmp_path / "envoy.yaml", certificates=()) as loader:
        first = await loader.load()
        assert first.loaded is not None
        assert set(first.loaded.selection.files) == {f"{tmp_path}/certs/tls.crt", f"{tmp_path}/certs/tls.key"}
        write(tmp_path / "certs", "tls.crt", "tls.key")
        second = await loader.load()
    assert second.loaded is not None
    assert second.loaded.revision != first.loaded.revision
