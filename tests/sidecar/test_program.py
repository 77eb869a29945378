"""The sidecar as a command: its output and its exit codes."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
import yaml

from tests.sidecar.test_sds_envoy import document
from tests.system.bootstrap import Json, http, listener
from tests.system.eventually import PATIENCE

SIDECAR = [sys.executable, "-m", "agent.sidecar"]


def sidecar(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run a short command to its end."""
    return subprocess.run([*SIDECAR, *words], capture_output=True, text=True, timeout=PATIENCE, check=False)


def write(path: Path, host: str = "127.0.0.1", **changes: Json) -> Path:
    """Write a bootstrap with one plain listener on a port of the kernel's choice."""
    made = listener("web", host, 0, [{"filters": [http("ok\n")]}])
    path.write_text(yaml.safe_dump({"static_resources": {"listeners": [made]}, **changes}), encoding="ascii")
    return path


@contextmanager
def running(*words: str | Path) -> Iterator[tuple["subprocess.Popen[str]", IO[str]]]:
    """Run a sidecar, from its message that it serves; it must exit with 0 when requested."""
    command = [*SIDECAR, "--disable-hot-restart", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            yield process, process.stderr
        finally:
            process.kill()


def test_it_prints_its_version_and_its_hot_restart_version() -> None:
    assert sidecar("--version").stdout.startswith("sidecar  version: ")
    assert sidecar("--hot-restart-version").stdout.strip() in {"11.104", "11.120"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--no-such-flag"], "cannot use --no-such-flag: not supported by sidecar"),
        (["--concurrency", "2"], "more than one worker is not supported by sidecar"),
        (["-l", "loud"], "cannot use --log-level loud"),
        (["--restart-epoch"], "its value is missing"),
    ],
)
def test_what_it_cannot_do_it_says_on_one_line(words: list[str], said: str) -> None:
    done = sidecar(*words)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_good_configuration_is_validated(tmp_path: Path) -> None:
    config = write(tmp_path / "good.yaml")
    done = sidecar("-c", config, "--mode", "validate")
    assert (done.returncode, done.stdout) == (0, f"configuration '{config}' OK\n")


@pytest.mark.parametrize(("mode", "code"), [("validate", 0), ("init_only", 1)])
def test_an_address_that_cannot_be_bound_is_found_by_a_rehearsal_only(tmp_path: Path, mode: str, code: int) -> None:
    config = write(tmp_path / "c.yaml", "192.0.2.1")  # TEST-NET-1, RFC 5737
    done = sidecar("-c", config, "--mode", mode, "--disable-hot-restart")
    assert done.returncode == code
    assert ("cannot listen on tcp://192.0.2.1:" in done.stderr) is (code == 1)


@pytest.mark.parametrize("mode", ["validate", "serve"])
def test_a_bad_configuration_has_envoys_message(tmp_path: Path, mode: str) -> None:
    config = write(tmp_path / "bad.yaml", no_such_field={})
    done = sidecar("-c", config, "--mode", mode, "--disable-hot-restart")
    assert done.returncode == 1
    assert "[critical][main] [agent/sidecar/program.py:" in done.stderr
    assert f"error initializing configuration '{config}': " in done.stderr
    assert "no_such_field" in done.stderr
    assert "Traceback" not in done.stderr


def test_lines_follow_the_pattern(tmp_path: Path) -> None:
    pattern = "[epoch 7] %% %l/%L %n %-8t| %q %v"
    with running("-c", write(tmp_path / "c.yaml"), "--log-format", pattern) as (process, log):
        pid = process.pid
        assert log.readline().startswith(f"[epoch 7] % info/I main {pid:<8}| %q serving on tcp://127.0.0.1:")


def test_the_pattern_of_the_configuration_counts(tmp_path: Path) -> None:
    text_format = {"log_format": {"text_format": "mine: %v"}}
    with running("-c", write(tmp_path / "c.yaml", application_log_config=text_format)) as (_, log):
        assert log.readline().startswith("mine: serving on ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_exits_with_0_on_sigterm(tmp_path: Path, number: signal.Signals) -> None:
    with running("-c", write(tmp_path / "c.yaml")) as (process, log):
        log.readline()
        process.send_signal(number)
        assert process.wait(timeout=PATIENCE) == 0
        assert f"{number.name}: exiting" in log.read()


def test_a_moved_log_is_reopened(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with running("-c", write(tmp_path / "c.yaml"), "--log-path", path, "-l", "info") as (process, _):
        moved = tmp_path / "moved"
        while not (path.exists() and path.read_text(encoding="ascii").endswith("\n")):
            assert process.poll() is None
        path.rename(moved)
        process.send_signal(signal.SIGUSR1)
        while not path.exists():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == 0
        assert "serving on" in moved.read_text(encoding="ascii")
        assert "exiting" in path.read_text(encoding="ascii")


def test_an_address_in_use_is_named(tmp_path: Path) -> None:
    with running("-c", write(tmp_path / "c.yaml")) as (_, log):
        port = int(log.readline().rpartition(":")[2])
        made = listener("web", "127.0.0.1", port, [{"filters": [http("ok\n")]}])
        config = tmp_path / "again.yaml"
        config.write_text(yaml.safe_dump({"static_resources": {"listeners": [made]}}), encoding="ascii")
        done = sidecar("-c", config, "--disable-hot-restart")
    assert done.returncode == 1
    assert f"cannot listen on tcp://127.0.0.1:{port}: another process does" in done.stderr


@pytest.mark.parametrize("mode", ["validate", "init_only"])
def test_a_validation_fetches_no_secrets(tmp_path: Path, mode: str) -> None:
    """With no limit on the first fetch, it would never end."""
    config = tmp_path / "c.json"
    config.write_text(json.dumps(document(tmp_path)))
    done = sidecar("-c", config, "--mode", mode, "--disable-hot-restart")
    assert (done.returncode, done.stdout) == (0, f"configuration '{config}' OK\n")
