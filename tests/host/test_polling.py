"""The watcher where the kernel reports no events: it polls, and logs that once."""

import asyncio
import errno
import shutil
from functools import partial
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import Mask, WatchDescriptor

from agent.host import inotify, watching
from agent.host.mounts import MountTable
from agent.host.watching import Mode
from tests.host.signal_printer import SWAPS, publish, refuse_instance, replace, watching_paths
from tests.system.eventually import PATIENCE


def refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, "inotify watch limit reached")


@pytest.mark.parametrize("method", ["_watch", "__init__"])
async def test_without_inotify_changes_are_looked_for_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(inotify.Inotify, method, {"_watch": refuse, "__init__": refuse_instance}[method])
    volume = tmp_path / "certs"
    publish(volume, 0)
    async with watching_paths(volume) as ear:
        await ear.hears_each(
            *(partial(publish, volume, n) for n in range(1, SWAPS)),
            lambda: (volume / "..data/tls.crt").write_text("in place"),
            (volume / "fresh.pem").touch,
            lambda: shutil.rmtree(volume),
        )
        assert ear.watcher.mode.kind == "polling"
        assert "fs.inotify.max_user_" in ear.watcher.mode.reason
        assert len(ear.notices) == 1
        assert ear.watcher.mode.reason in ear.notices[0]


async def test_refused_directories_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "RETRY", 0.01)
    watch, refusals = inotify.Inotify._watch, iter(range(10))
    heard_again = asyncio.Event()

    def refuse_at_first(self: inotify.Inotify, directory: str, mask: Mask) -> WatchDescriptor:
        for _ in refusals:
            refuse()
        heard_again.set()
        return watch(self, directory, mask)

    monkeypatch.setattr(inotify.Inotify, "_watch", refuse_at_first)
    async with watching_paths(tmp_path, poll_every=3600) as ear:
        assert ear.watcher.mode.kind == "polling"
        await asyncio.wait_for(heard_again.wait(), PATIENCE)
        await ear.hears_each((tmp_path / "fresh.pem").touch)


async def test_a_directory_that_may_not_be_read_is_looked_at_until_it_may(ordinary: Path) -> None:
    certs = ordinary / "certs"
    certs.mkdir()
    certs.chmod(0o311)
    async with watching_paths(certs / "tls.crt") as ear:
        assert ear.watcher.mode == Mode("polling", "permission denied")
        await ear.hears_each(*[partial(replace, certs / "tls.crt", "anew")] * SWAPS)
        await ear.hears_each(partial(certs.chmod, 0o711))
        assert ear.watcher.mode == Mode("inotify", "")
        assert ear.notices == [f"cannot watch {certs}: permission denied; polling every 0.01 s instead"]


async def test_a_directory_that_is_opened_up_is_entered(ordinary: Path) -> None:
    certs = ordinary / "deep" / "certs"
    certs.mkdir(parents=True)
    certs.parent.chmod(0o000)
    async with watching_paths(certs, poll_every=3600) as ear:
        await ear.hears_each(partial(certs.parent.chmod, 0o700), (certs / "tls.crt").touch)


async def test_a_network_mount_is_looked_at_from_the_beginning(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    table = MountTable.parse(
        f"22 1 254:0 / / rw - ext4 /dev/vda rw\n36 22 0:44 / {tmp_path} rw,relatime shared:1 - nfs4 server:/export rw\n"
    )
    async with watching_paths(certs, mounts=lambda: table) as ear:
        assert ear.watcher.mode.kind == "polling"
        await ear.hears_each(*[lambda: replace(certs / "tls.crt", "anew")] * SWAPS)
        assert [f"the nfs4 mount at {tmp_path}" in notice for notice in ear.notices] == [True]


async def test_a_file_that_is_a_mount_is_looked_at_and_what_that_means_is_said_once(tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.touch()
    table = MountTable.parse(f"36 22 254:0 /source/chain.pem {chain} rw - ext4 /dev/vda rw\n")
    async with watching_paths(chain, tmp_path, mounts=lambda: table) as ear:
        await ear.hears_each(*[lambda: chain.write_text("anew")] * SWAPS)
        assert [f"{chain}: it is a mount of a single file" in notice for notice in ear.notices] == [True]
        assert ear.watcher.mode.kind == "polling"
