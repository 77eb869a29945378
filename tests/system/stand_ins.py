"""Programs in place of the proxy: links to it, and shell scripts that misbehave or wrap it."""

from pathlib import Path


def link(path: Path, program: Path) -> None:
    """Make `path` a symbolic link to `program`, by a rename."""
    beside = path.with_suffix(".new")
    beside.symlink_to(program)
    beside.replace(path)


def script(path: Path, body: str) -> None:
    """Make `path` a shell script, by a rename."""
    beside = path.with_suffix(".new")
    beside.write_text(f"#!/bin/sh\n{body}\n", encoding="ascii")
    beside.chmod(0o755)
    beside.replace(path)


def exits_at_once(path: Path) -> None:
    """Make `path` a program that always fails."""
    script(path, "exit 1")


def never_ready(path: Path) -> None:
    """Make `path` a program that prints its versions and otherwise hangs."""
    version = "*--version*) echo 'envoy  version: 0123abcd/1.40.0/Clean/RELEASE/BoringSSL'; exit;;"
    handoff = "*--hot-restart-version*) echo 11.104; exit;;"
    script(path, f'case "$*" in {handoff} {version} esac; exec sleep 1000')


def never_answers(path: Path) -> None:
    """Make `path` a program that hangs, even when asked for its version."""
    script(path, "exec sleep 1000")


def breakable(path: Path, proxy: Path, broken: Path) -> None:
    """Make `path` run the proxy unless the file `broken` exists."""
    script(path, f'[ -e {broken} ] && exit 1\nexec {proxy} "$@"')


def holdable(path: Path, proxy: Path, held: Path) -> None:
    """Make `path` run the proxy when there is no file `held`; queries such as --version do not wait."""
    waits = f"while [ -e {held} ]; do sleep 0.01; done"
    script(path, f'case "$*" in *version*|*validate*) ;; *) {waits};; esac\nexec {proxy} "$@"')


def with_workers(path: Path, proxy: Path, number: Path) -> None:
    """Make `path` run the proxy with the number of workers in the file `number`."""
    script(path, f'exec {proxy} "$@" --concurrency "$(cat {number})"')
