"""A clean Debian under systemd, without Python packages of this project: the agent is installed in it as people do.

mmdebstrap makes the file system once; it stays in the cache directory of `older`. Each test gets a layer in memory over
it.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.system import systemd_fixture
from tests.system.older import CACHE
from tests.system.room import Room
from tests.system.systemd_fixture import PROJECT, SystemdInstance, layer_over, own_groups

SUITE = "bookworm"
PACKAGES = ("systemd", "systemd-sysv", "dbus", "ca-certificates", "python3", "python3-venv", "pipx")
MIRROR = "http://deb.debian.org/debian"
INSTALLING = 600.0  # seconds for a package manager, on any machine
_BY_PACKAGE_MANAGERS = (
    "/etc/.pwd.lock",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/passwd-",
    "/etc/shadow-",
    "/var/cache/",
    "/var/lib/dpkg/",
    "/var/lib/systemd/",
    "/var/log/",
)
"""What dpkg, the account tools and systemd write for themselves."""


def missing() -> str:
    """Return what this machine lacks to boot a clean Debian; empty if complete."""
    lacking = [name for name in ("mmdebstrap", "tar") if shutil.which(name) is None]
    return ", ".join(filter(None, (*lacking, systemd_fixture.missing())))


def missing_for_a_package() -> str:
    """Return what it lacks to build a .deb, in addition."""
    wanted = ("dh", "dpkg-buildpackage", "fakeroot", "/usr/bin/python3")
    lacking = [name for name in wanted if shutil.which(name) is None]
    if not list(Path("/usr/lib").glob("python3.*/ensurepip/__init__.py")):
        lacking.append("python3-venv")
    return ", ".join(lacking)


def archive() -> Path:
    """Return the file system as a tar file; made by mmdebstrap if it is not in the cache."""
    digest = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:12]
    path = CACHE / f"debian-{SUITE}-{digest}.tar"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.stem}.{os.getpid()}.tar")
        words = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE]
        done = subprocess.run(
            [*words, str(beside), MIRROR], capture_output=True, text=True, timeout=INSTALLING, check=False
        )
        if done.returncode:
            pytest.skip(f"mmdebstrap cannot make a Debian: {done.stderr[-300:]}")
        beside.replace(path)
    return path


def unpacked(directory: Path) -> Path:
    """Unpack the file system into a directory."""
    directory.mkdir()
    subprocess.run(["tar", "-x", "-f", archive(), "--numeric-owner", "-C", directory], check=True)
    return directory


def built(directory: Path) -> tuple[Path, Path]:
    """Build the Debian package; return it, and the directory with the wheels that it consists of."""
    packages, wheels = directory / "packages", directory / "wheels"
    wheels.mkdir()
    environment = {**os.environ, "WHEELS": str(wheels), "TMPDIR": str(directory)}
    words = [PROJECT / "packaging/deb/build", packages]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=INSTALLING, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (package,) = packages.glob("*.deb")
    return package, wheels


def newer(package: Path, version: str, replaced: dict[str, tuple[str, str]]) -> Path:
    """Return a copy of a package with another version and edited modules: by name, the old text and the new one."""
    tree = package.parent / version
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True, stdout=subprocess.DEVNULL)
    control = tree / "DEBIAN/control"
    lines = control.read_text(encoding="utf-8").splitlines()
    changed = [f"Version: {version}" if line.startswith("Version:") else line for line in lines]
    control.write_text("\n".join([*changed, ""]), encoding="utf-8")
    (modules,) = tree.glob("usr/lib/proxy-agent/lib/python3.*/site-packages/agent")
    for name, (old, new) in replaced.items():
        text = (modules / name).read_text(encoding="utf-8")
        assert old in text
        (modules / name).write_text(text.replace(old, new), encoding="utf-8")
    result = package.with_name(f"proxy-agent_{version}.deb")
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, result],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return result


class DebianInstance(SystemdInstance):
    """A booted Debian. Files for it are put into `/work` inside."""

    def put(self, *files: Path) -> None:
        """Copy files into /work."""
        work = self.root / "work"
        work.mkdir(exist_ok=True)
        for each in files:
            shutil.copy(each, work)

    def done(self, *words: str) -> str:
        """Run a command that has to succeed; return both its outputs."""
        ran = self.run(*words, timeout=INSTALLING)
        assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
        return ran.stdout + ran.stderr

    def shell(self, text: str) -> str:
        """Run a shell command that has to succeed."""
        return self.done("sh", "-c", text)

    def files(self) -> set[str]:
        """Return each path on the root file system, without /work and what only package managers write."""
        found = self.run("find", "/", "-xdev", "-path", "/work", "-prune", "-o", "-print").stdout.splitlines()
        return {path for path in found if not path.startswith(_BY_PACKAGE_MANAGERS)}

    def accounts(self) -> str:
        """Return the users and groups."""
        return self.done("cat", "/etc/passwd", "/etc/group")


@contextmanager
def booted_debian(room: Room, lower: Path, binary: Path, proxy_args: Sequence[str]) -> Iterator[DebianInstance]:
    """Yield a clean Debian that has booted."""
    with ExitStack() as stack:
        root = stack.enter_context(layer_over(lower, room.directory / "system"))
        groups = stack.enter_context(own_groups(room.directory / "groups"))
        instance = DebianInstance(room, root, binary, proxy_args, groups)
        stack.callback(instance.power_off)
        instance.boot()
        yield instance
