"""Programs that are put in the place of the proxy: links to it, and shell scripts that misbehave or wrap it."""

from pathlib import Path


def link(path: Path, program: Path) -> None:
    """Let `path` be a symbolic link to `program`, by a rename."""
    beside = path.with_suffix(".new")
    beside.symlink_to(program)
    beside.replace(path)


def script(path: Path, body: str) -> None:
    """Let `path` be a shell script, by a rename."""
    beside = path.with_suffix(".new")
    beside.write_text(f"#!/bin/sh\n{body}\n", encoding="ascii")
    beside.chmod(0o755)
    beside.replace(path)


def exits_at_once(path: Path) -> None:
    """Let `path` be a program that fails whatever it is asked."""
    script(path, "exit 1")


def never_ready(path: Path) -> None:
    """Let `path` be a program that knows its versions and then does nothing."""
    version = "*--version*) echo 'envoy  version: 0123abcd/1.40.0/Clean/RELEASE/BoringSSL'; exit;;"
    handoff = "*--hot-restart-version*) echo 11.104; exit;;"
    script(path, f'case "$*" in {handoff} {version} esac; exec sleep 1000')


def never_answers(path: Path) -> None:
    """Let `path` be a program that does nothing at all, not even tell its version."""
    script(path, "exec sleep 1000")


def breakable(path: Path, proxy: Path, broken: Path) -> None:
    """Let `path` run the proxy unless the file `broken` exists."""
    script(path, f'[ -e {broken} ] && exit 1\nexec {proxy} "$@"')


def holdable(path: Path, proxy: Path, held: Path) -> None:
    """Let `path` run the proxy once there is no file `held`; what only tells something about itself does not wait."""
    waits = f"while [ -e {held} ]; do sleep 0.01; done"
    script(path, f'case "$*" in *version*|*validate*) ;; *) {waits};; esac\nexec {proxy} "$@"')


def with_workers(path: Path, proxy: Path, number: Path) -> None:
    """Let `path` run the proxy with as many workers as the file `number` says."""
    script(path, f'exec {proxy} "$@" --concurrency "$(cat {number})"')
