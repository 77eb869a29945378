"""The generated bootstrap follows the files of a directory under any names, also while they are written."""

import asyncio
import errno
import logging
import math
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from agent.certificates.findings import Fallback, Fault
from agent.certificates.references import Reference, Role
from agent.certificates.selection import LastGood, select_files
from agent.host import clock
from agent.host.disk_thread import DiskThread
from agent.inputs.loader import Loader
from agent.inputs.programs import Programs
from agent.inputs.revisions import LoadedRevision, RevisionStore
from agent.inputs.settings import Settings
from agent.proxies.envoy import default_bootstrap
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from tests.pki import Algorithm, Authority, Leaf

KIND = Envoy(Flags(), 1.0)
SIDECAR = Path(sys.executable).with_name("sidecar")


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
    program: Path = Path("/bin/true"),
    certificates: tuple[Path, ...] | None = None,
) -> AsyncIterator[Loader]:
    """Open a loader of this directory; `certificates`: those of --certs, this directory by default."""
    settings = Settings(
        proxy=str(program),
        kind=KIND,
        certificates=(directory,) if certificates is None else certificates,
        config=configuration,
        watched=(),
        run_directory=directory / "run",
        listen="tcp://127.0.0.1:1",
        forward="tcp://127.0.0.1:2",
        alarm_timeout=alarm_timeout,
    )
    files = DiskThread(lambda: None, notice=lambda _: None)
    programs, revisions = Programs(program, KIND, None), RevisionStore()
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
    outcome = select_files(references, contents, LastGood(), datetime.now(UTC))
    loader.serves(cast("LoadedRevision", SimpleNamespace(outcome=outcome, source=None)))


@pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
async def test_an_empty_configuration_is_not_taken_for_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "envoy.yaml").write_text(text)
    async with opened(tmp_path, tmp_path / "envoy.yaml") as loader:
        result = await loader.load()
    assert result.material is None
    (message,) = [message for _, reason, message in loader.complaints() if reason == "configuration"]
    assert message == f"cannot read {tmp_path}/envoy.yaml: it is empty; write it"


async def test_without_a_pair_the_message_names_the_file_and_not_the_configuration(tmp_path: Path) -> None:
    write(tmp_path, "tls.crt", "other.key")
    write(tmp_path, "other.crt", "tls.key")
    (tmp_path / "other.crt").unlink()
    (tmp_path / "other.key").unlink()
    async with opened(tmp_path, alarm_timeout=0.0, program=SIDECAR) as loader:
        result = await loader.load()
        assert result.missing == (f"a certificate with its key in {tmp_path}",)
        ((path, fault),) = [(each.path, each.fault) for each in loader.reports.refusals]
        assert (path, fault) == (f"{tmp_path}/tls.key", Fault.MISMATCH)
        assert [message for message in result.refused if "does not fit the leaf" in message]
        assert not list(loader.complaints())
        write(tmp_path, "tls.crt", "tls.key")
        assert (await loader.load()).material is not None
        assert not loader.reports.refusals


async def test_what_lies_beside_the_pairs_is_said_once_it_is_no_write_under_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "tls.crt", "tls.key")
    write(tmp_path, "b.crt", "b.key")
    (tmp_path / "b.key").write_bytes((tmp_path / "b.key").read_bytes()[:100])
    write(tmp_path, "tls.crt.old", ".key")
    (tmp_path / "store.p12").write_bytes(b"\x30\x82\x01\x00")
    async with opened(tmp_path, alarm_timeout=0.1, program=SIDECAR) as loader:
        result = await loader.load()
        assert result.material is not None
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
    async with opened(tmp_path, alarm_timeout=0.0, program=SIDECAR) as loader:
        result = await loader.load()
        assert result.material is not None
        loader.serves(result.material)
        (tmp_path / "tls.key").write_bytes(b"garbage")
        assert (await loader.load()).material is not None
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
    async with opened(certs, configuration, program=SIDECAR) as loader:
        result = await loader.load()
        assert result.material is not None
        assert set(result.material.outcome.files) == {f"{tmp_path}/away/tls.crt", f"{tmp_path}/away/tls.key"}
        again = await loader.load()
        assert again.material is result.material, "the same bytes"
        resources.write_text(resources.read_text() + "\n")
        changed = await loader.load()
        assert changed.material is not None
        assert changed.material.revision.config_digest != result.material.revision.config_digest


@pytest.mark.parametrize("content", ["", "resources: [", None])
async def test_one_that_cannot_be_used_leaves_the_last_usable_configuration(
    content: str | None, tmp_path: Path
) -> None:
    configuration, resources = resource_file(tmp_path)
    certs = tmp_path / "certs"
    certs.mkdir()
    async with opened(certs, configuration, program=SIDECAR) as loader:
        before = (await loader.load()).material
        resources.unlink() if content is None else resources.write_text(content)
        result = await loader.load()
        assert result.material is before
        assert [(path, kind) for path, kind, _ in loader.complaints()] == [(str(resources), "configuration")]
        assert str(resources) in result.refused[0]


async def test_what_the_machine_could_not_read_is_looked_at_again_though_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine had no free descriptors: the new certificate is not at fault, and loads again without a change."""
    write(tmp_path, "tls.crt", "tls.key")
    async with opened(tmp_path, program=SIDECAR) as loader:
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


async def test_a_loaded_revision_is_stored_before_its_event_is_posted(tmp_path: Path) -> None:
    """The supervisor sees the new revision's files as used, even between the load and its event."""
    write(tmp_path, "tls.crt", "tls.key")
    async with opened(tmp_path, program=SIDECAR) as loader:
        result = asyncio.ensure_future(loader.load())
        while not result.done():
            await asyncio.sleep(0)
            loader._revisions.keep_only({revision for revision in [loader.newest] if revision is not None})
        material = result.result().material
        assert material is not None
        assert loader._revisions[material.revision] is material


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
    async with opened(tmp_path, alarm_timeout=0.0, program=SIDECAR) as loader:
        for _ in range(2):
            result = await loader.load()
        assert result.material is not None
        assert (f"{tmp_path}/another.crt" in result.material.outcome.files) is taken
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
    async with opened(tmp_path, program=SIDECAR) as loader:
        both = (await loader.load()).material
        assert both is not None
        assert len(both.outcome.units) == 2
        loader.serves(both)
        monkeypatch.setattr(clock, "calendar", lambda: now + 2 * DAY)
        later = (await loader.load()).material
        assert later is not None
        assert list(later.outcome.units) == [f"{tmp_path}/b.crt"]


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
    async with opened(tmp_path, tmp_path / "envoy.yaml", program=SIDECAR, certificates=()) as loader:
        first = await loader.load()
        assert first.material is not None
        assert set(first.material.outcome.files) == {f"{tmp_path}/certs/tls.crt", f"{tmp_path}/certs/tls.key"}
        write(tmp_path / "certs", "tls.crt", "tls.key")
        second = await loader.load()
    assert second.material is not None
    assert second.material.revision != first.material.revision
