"""Mount tables, from text and from the kernel."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent.host.mounts import Mount, MountTable, read_mounts
from tests.system.eventually import PATIENCE

TABLE = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
31 27 0:44 /export /srv/with\040blank rw,relatime - nfs4 10.0.0.1:/export rw
32 31 0:45 / /srv/with\040blank/inner rw - tmpfs tmpfs rw
33 27 0:46 / /srv/fs rw - ext4 /dev/vdb rw
34 33 0:47 / /srv/fs rw - fuse.sshfs host:/ rw
"""


@pytest.mark.parametrize(
    ("path", "point", "is_silent"),
    [
        ("/etc/certs", "/", False),
        ("/", "/", False),
        ("/srv/with blank", "/srv/with blank", True),
        ("/srv/with blank/deep/down", "/srv/with blank", True),
        ("/srv/with blanket", "/", False),
        ("/srv/with blank/inner/file", "/srv/with blank/inner", False),
        ("/srv/fs/file", "/srv/fs", True),
    ],
)
def test_a_path_lies_on_the_mount_with_the_longest_prefix(path: str, point: str, is_silent: bool) -> None:
    mount = MountTable.parse(TABLE).under(path)
    assert mount is not None
    assert (mount.point, mount.is_silent) == (point, is_silent)


def test_a_table_without_a_root_does_not_know_every_path() -> None:
    assert MountTable([Mount("/mnt", "ext4")]).under("/etc") is None


def test_the_kernels_own_table_knows_proc() -> None:
    assert read_mounts().under("/proc/self") == Mount("/proc", "proc")


PROGRAM = """
import asyncio, subprocess, sys
from pathlib import Path
from agent.host.watching import Watcher

async def main(certs, source):
    news, notices = asyncio.Queue(), []
    watcher = Watcher(news.put_nowait, notice=notices.append, loop=asyncio.get_running_loop())
    watcher.watch([str(certs)])

    async def hears(deed, *arguments):
        while not news.empty():
            news.get_nowait()
        deed(*arguments)
        async with asyncio.timeout(120):
            await news.get()

    for _ in range(3):
        await hears(subprocess.check_call, ["mount", "-t", "tmpfs", "none", certs])
        await hears((certs / "tls.crt").touch)
        await hears(subprocess.check_call, ["mount", "--bind", source, certs / "tls.crt"])
        assert watcher.mode.kind == "polling", watcher.mode
        await hears(source.write_text, "written outside")
        await hears(subprocess.check_call, ["umount", certs / "tls.crt"])
        await hears(subprocess.check_call, ["umount", certs])
        assert watcher.mode.kind == "inotify", watcher.mode
        source.write_text("")
    assert len(notices) == 1, notices
    watcher.close()

asyncio.run(main(*map(Path, sys.argv[1:])))
"""


@pytest.mark.root
def test_a_directory_mounted_over_and_a_file_mounted_on_its_own_are_followed(tmp_path: Path) -> None:
    own_mounts = ["unshare", "--mount", "--propagation", "private"]
    if subprocess.run([*own_mounts, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no mount namespace of our own is to be had")
    certs, source = tmp_path / "certs", tmp_path / "source.pem"
    certs.mkdir()
    source.touch()
    subprocess.run([*own_mounts, sys.executable, "-c", PROGRAM, certs, source], check=True, timeout=PATIENCE)
