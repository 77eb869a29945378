"""Other kernels, for features that this machine's kernel lacks: they use this machine's root file system, read-only.

`user_mode` is user-mode-linux, an ordinary process: as fast as the machine between system calls, 39 bits of address.
`emulated` is Debian's kernel on a processor that qemu emulates: it works everywhere, about ten times slower.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system.older import CACHE

Kernel = Callable[[Path, Mapping[str, str], Sequence[str]], list[str]]
"""Returns the command line of a kernel that runs a program of this machine as its first process: from an empty
directory for its own files, from variables and from the program with its arguments, without spaces and none of them
empty. The console is the standard output. The test is skipped if the kernel is not available.
"""

IMAGE = "linux-image-"
META_PACKAGE = f"{IMAGE}amd64"
MODULES = ("virtio_pci", "9pnet_virtio", "9p")
MIB = 1536
FIRST = """#!/bin/busybox sh
for each in /modules/*; do /bin/busybox insmod "$each"; done
/bin/busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=1048576 root /root
exec /bin/busybox switch_root /root "$@"
"""


def user_mode(home: Path, variables: Mapping[str, str], program: Sequence[str]) -> list[str]:
    """Return the command line of user-mode-linux, Debian's package of this name."""
    _need("linux.uml", "modprobe", of="user-mode-linux and kmod")
    mine = [f"mem={MIB}M", f"umid={home.name}", f"uml_dir={home}", "con0=null,fd:1", "con=null", "ssl=null"]
    root = ["root=none", "rootfstype=hostfs", "rootflags=/", "ro", f"init={program[0]}"]
    return ["linux.uml", *mine, *root, "quiet", *_assigned(variables), "--", *program[1:]]


def emulated(home: Path, variables: Mapping[str, str], program: Sequence[str]) -> list[str]:
    """Return the command line of qemu with the kernel of Debian's package, which is downloaded and not installed.

    Its clocks advance a nanosecond per instruction. So a program runs at the usual speed by its own clock, and no
    deadline needs to be longer.
    """
    _need("qemu-system-x86_64", "modprobe", "depmod", "apt-get", of="qemu-system-x86, kmod and Debian's apt")
    parts = debian_kernel()
    if parts is None:
        pytest.skip(f"cannot fetch {META_PACKAGE} and busybox-static by apt-get: perhaps after apt-get update")
    processor = ["-accel", "tcg", "-icount", "shift=0", "-rtc", "clock=vm", "-cpu", "max", "-m", f"{MIB}M"]
    devices = ["-no-user-config", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]
    root = ["-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"]
    boot = ["-kernel", str(parts / "vmlinuz"), "-initrd", str(_first_root(parts, home))]
    words = ["console=ttyS0", "mitigations=off", "quiet", "panic=-1", *_assigned(variables), "--", *program]
    return ["qemu-system-x86_64", *processor, *devices, *root, *boot, "-append", " ".join(words)]


def _need(*programs: str, of: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)}: install {of}")


def _assigned(variables: Mapping[str, str]) -> list[str]:
    """A kernel passes unknown parameters to its first process."""
    return [f"{name}={value}" for name, value in variables.items()]


def debian_kernel() -> Path | None:
    """Return a directory of `vmlinuz`, `busybox` and `modules`, named in the order of loading.

    Downloaded once; None if apt-get fails.
    """
    kept = CACHE / "kernel"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as directory:
            parts = Path(directory) / "parts"
            try:
                _gather(_unpacked(Path(directory)), parts)
            except (OSError, LookupError, StopIteration, subprocess.SubprocessError):
                return None
            with suppress(OSError):  # another run was faster
                parts.rename(kept)
    return kept


def _unpacked(directory: Path) -> Path:
    """Download the packages into a directory; return the root of their content."""
    image = re.findall(rf"Depends: ({IMAGE}\S+)", _told("apt-cache", "depends", META_PACKAGE))[0]
    _told("apt-get", "download", image, "busybox-static", directory=directory)
    root = directory / "root"
    for package in directory.glob("*.deb"):
        _told("dpkg", "-x", str(package), str(root))
    return root


def _gather(root: Path, parts: Path) -> None:
    image = next(root.glob("boot/vmlinuz-*"))
    version = image.name.removeprefix("vmlinuz-")
    _told("depmod", "-b", str(root), version)
    told = _told("modprobe", "-d", str(root), "-S", version, "--show-depends", "-a", *MODULES)
    paths = dict.fromkeys(line.split()[1] for line in told.splitlines() if line.startswith("insmod "))
    (parts / "modules").mkdir(parents=True)
    for number, path in enumerate(paths):
        shutil.copy(path, parts / "modules" / f"{number:02}-{Path(path).name}")
    shutil.copy(image, parts / "vmlinuz")
    shutil.copy(root / "bin/busybox", parts / "busybox")


def _told(*argv: str, directory: Path | None = None) -> str:
    """Run a program and return its output."""
    ran = subprocess.run(argv, cwd=directory, check=True, capture_output=True, timeout=300)
    return ran.stdout.decode()


def _first_root(parts: Path, home: Path) -> Path:
    """Write the archive of the kernel's first root: it contains only the tools to mount the other one."""
    tree, archive = home / "first", home / "first.cpio"
    for name in ("bin", "root"):
        (tree / name).mkdir(parents=True)
    shutil.copy(parts / "busybox", tree / "bin/busybox")
    shutil.copytree(parts / "modules", tree / "modules")
    (tree / "init").write_text(FIRST, encoding="ascii")
    (tree / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*"))).encode()
    with archive.open("wb") as sink:
        busybox = [str(parts / "busybox"), "cpio", "-o", "-H", "newc"]
        subprocess.run(busybox, input=names, stdout=sink, stderr=subprocess.DEVNULL, cwd=tree, check=True, timeout=60)
    return archive
