"""The certificate directories, as a loader lists them."""

from pathlib import Path

import pytest

from agent.host.disk_thread import DiskThread
from agent.inputs.directories import CertificateDirectories
from agent.inputs.finding_log import FindingLog
from tests.inputs.test_loader import events, opened, write


def place(directory: Path, name: str) -> Path:
    """Write a pair as certbot names it, in a directory of this name."""
    below = directory / name
    below.mkdir(parents=True)
    write(below, "fullchain.pem", "privkey.pem")
    return below


async def test_pairs_are_found_below_the_directory(tmp_path: Path) -> None:
    for name in ("a.test", "b.test", "tenant/c.test", "tenant/deep/d.test"):
        place(tmp_path, name)
    async with opened(tmp_path) as loader:
        found = {each.group.removeprefix(f"{tmp_path}/") for each in (await loader.discover()).references}
    assert found == {"a.test/fullchain.pem", "b.test/fullchain.pem", "tenant/c.test/fullchain.pem"}


async def test_a_pair_in_a_new_directory_is_noticed_and_a_removed_one_too(tmp_path: Path) -> None:
    place(tmp_path, "a.test")
    async with opened(tmp_path) as loader:
        first = await loader.load()
        assert first.loaded is not None
        place(tmp_path, "b.test")
        second = await loader.load()
        assert second.loaded is not None
        assert len(second.loaded.selection.groups) == 2
        assert f"{tmp_path}/b.test" in loader._directories.below


async def test_directories_are_watched_before_their_files_are_listed(tmp_path: Path) -> None:
    """A file that is written between the two would never be noticed."""
    place(tmp_path, "a.test")
    watched: list[list[str]] = []

    async def watch() -> None:
        watched.append([*directories.below])
        if len(watched) == 1:
            place(tmp_path, "b.test")

    disk = DiskThread(lambda: None, notice=lambda _: None)
    directories = CertificateDirectories((tmp_path,), None, disk, watch, FindingLog(0.0))
    try:
        files = await directories.files()
        assert await directories.files() == files
    finally:
        await disk.close()
    assert {f"{tmp_path}/{name}/privkey.pem" for name in ("a.test", "b.test")} < {*files}
    assert [f"{tmp_path}/b.test" in below for below in watched] == [False, True]


async def test_the_run_directory_is_no_place_for_certificates(tmp_path: Path) -> None:
    place(tmp_path, "a.test")
    place(tmp_path, "run")
    async with opened(tmp_path) as loader:
        assert {each.group for each in (await loader.discover()).references} == {f"{tmp_path}/a.test/fullchain.pem"}


async def test_directories_that_cannot_be_read_are_named_and_the_others_are_used(
    ordinary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    below = place(ordinary, "a.test")
    closed = [ordinary / name for name in ("b.test", "c.test", "d.test", "e.test")]
    for each in closed:
        each.mkdir(mode=0)
    async with opened(ordinary) as loader:
        for _ in range(2):
            assert {each.group for each in (await loader.discover()).references} == {f"{below}/fullchain.pem"}
    (message,) = [text for event, text in events(caplog) if event == "files.unreadable"]
    assert message.startswith(f"cannot look for certificates in {closed[0]}: permission denied")
    assert message.endswith("; let the agent's user read it")
    assert [str(path) in message for path in closed] == [True, True, True, False]
