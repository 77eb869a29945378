#!/usr/bin/env python3
"""Copies a virtual environment, its Python and all that both need at run time into an empty directory.

`rootfs.py ENVIRONMENT DESTINATION`, run as root by the Python that the environment belongs to. The result is the root
of an image without a shell and a package manager: the interpreter, its standard library, bytecode of everything, the
shared libraries, time zones (for --rotate-window), the certificate authorities of the base, and a user.
"""

import compileall
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

USER = 1337
UNUSED = {
    "__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tkinter",
    "turtle.py", "turtledemo", "venv",
}  # fmt: skip
"""Parts of the standard library that no proxy manager imports."""

UNUSED_MODULES = re.compile(r"_?(curses|curses_panel|dbm|gdbm|readline|sqlite3|tkinter|test\w*|ctypes_test|xx\w+)\.")
"""Extension modules that it does not import either; some of them need large libraries."""

DATA = (
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ssl/certs/ca-certificates.crt",
    "/usr/lib/os-release",
    "/usr/share/zoneinfo",
)
LOADED_LATER = "libgcc_s.so.1"  # by the C library, when a thread ends


def main() -> None:
    """Fill the directory and print its size."""
    environment, root = (Path(argument).resolve() for argument in sys.argv[1:])
    if root.exists():
        sys.exit(f"cannot use {root}: it exists; name a new directory")
    merged_directories(root)
    for path in (environment, Path(sys.executable).resolve(), *standard_library(), *map(Path, DATA)):
        copy(path, root)
    interpreter_links(environment / "bin/python", root)
    for library in libraries([path for path in root.rglob("*") if is_binary(path)]):
        if not library.is_relative_to(environment) and not library.is_relative_to(root):
            copy(library, root)
    subprocess.run(["ldconfig", "-r", root], check=True)  # noqa: S607  # the one of the base
    # Not by the date of the source: no file of an image changes.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(root, stripdir=root, prependdir="/", quiet=1, workers=0, invalidation_mode=mode):
        sys.exit(f"cannot compile the modules in {root}: see above")
    pilot_agent(environment / "bin", root)
    system_files(root / "etc")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    print(f"{root}: {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")


def merged_directories(root: Path) -> None:
    """Make links such as /lib where the base has them."""
    root.mkdir()
    for name in ("bin", "lib", "lib64"):
        base = Path("/", name)
        if base.is_symlink():
            aim = str(base.readlink()).lstrip("/")
            (root / aim).mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(aim)


def standard_library() -> Iterator[Path]:
    """Yield the modules of the standard library that may be imported."""
    for path in Path(sysconfig.get_path("stdlib")).iterdir():
        if path.name == "lib-dynload":
            yield from (each for each in path.iterdir() if not UNUSED_MODULES.match(each.name))
        elif path.name not in UNUSED and not path.name.startswith("config-"):
            yield path


def copy(source: Path, root: Path) -> None:
    """Copy a file or a directory to the same place below the root, if it exists; links to files become files."""
    target = root / source.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    elif source.exists():
        shutil.copy2(source, target)


def interpreter_links(path: Path, root: Path) -> None:
    """Make the links from the environment to the interpreter."""
    while path.is_symlink():
        aim = path.readlink()
        link = root / path.relative_to("/")
        if not link.is_symlink():
            link.symlink_to(aim)
        path = path.parent / aim


def is_binary(path: Path) -> bool:
    """Return whether a file is a program or a shared library."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def libraries(binaries: list[Path]) -> set[Path]:
    """Return the shared libraries that the loader finds for these files, and the one that the C library loads later."""
    command = ["ldd", *map(str, binaries)]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    if missing := set(re.findall(r"(\S+) => not found", listed)):
        sys.exit(f"cannot find {', '.join(sorted(missing))}: install the packages of these libraries in the base")
    found = {Path(path) for path in re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", listed, re.MULTILINE)}
    later = {path.parent / LOADED_LATER for path in found if path.name.startswith("libc.")}
    return found | later


def pilot_agent(programs: Path, root: Path) -> None:
    """Give the agent the names by which pods that were written for Istio call it."""
    (root / programs.relative_to("/") / "pilot-agent").symlink_to("agent")
    directory = root / "usr/local/bin"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pilot-agent").symlink_to(programs / "agent")


def system_files(etc: Path) -> None:
    """Write what the C library and Python look up: users, groups, and the order of name services."""
    (etc / "passwd").write_text(f"root:x:0:0:root:/:/sbin/nologin\nagent:x:{USER}:{USER}:agent:/:/sbin/nologin\n")
    (etc / "group").write_text(f"root:x:0:\nagent:x:{USER}:\n")
    (etc / "nsswitch.conf").write_text("hosts: files dns\n")
    (etc / "os-release").symlink_to("../usr/lib/os-release")


if __name__ == "__main__":
    main()
