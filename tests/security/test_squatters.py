"""Another user's socket in the place of an agent: no command trusts it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.eventually import PATIENCE

pytestmark = pytest.mark.root
NOBODY = 65534

SQUATTER = r"""
import os, socket, sys
os.setgid(65534); os.setuid(65534)
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    print("ready", flush=True)
    while True:
        client, _ = listener.accept()
        with client:
            asked = client.recv(65536)
            if asked:
                print(asked.split(b"\r\n")[0].decode(), flush=True)
            try:
                client.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\x1b]0;pwned\x07\x1b[2J{}\n")
            except OSError:
                pass
"""


@pytest.fixture
def squatted(tmp_path: Path) -> "Iterator[tuple[Path, subprocess.Popen[str]]]":
    """A run directory where every user can create one, with a socket of another user in it."""
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    tmp_path.chmod(0o1777)
    directory = tmp_path / "agent"
    directory.mkdir()
    (directory / "lock").touch()
    os.chown(directory, NOBODY, NOBODY)
    with subprocess.Popen(
        [sys.executable, "-I", "-c", SQUATTER, str(directory / "control")], stdout=subprocess.PIPE, text=True
    ) as squatter:
        assert squatter.stdout is not None
        assert squatter.stdout.readline() == "ready\n"
        yield directory, squatter
        squatter.kill()


@pytest.mark.parametrize(
    "words",
    [
        ["wait", "--timeout", "1s"],
        ["drain"],
        ["stop"],
        ["restart"],
        ["upgrade"],
        ["pause"],
        ["status"],
        ["certs"],
        ["history"],
        ["request", "GET", "/stats"],
    ],
    ids=lambda words: words[0],
)
def test_no_command_asks_him_anything_or_prints_what_he_says(
    squatted: "tuple[Path, subprocess.Popen[str]]", words: list[str]
) -> None:
    directory, squatter = squatted
    command = [sys.executable, "-m", "agent", *words]
    done = subprocess.run(
        [*command, "--run-dir", str(directory)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode not in {0, None}
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert "uid 65534" in done.stderr
    squatter.kill()
    assert squatter.stdout is not None
    assert squatter.stdout.read() == "", "he was asked nothing"
