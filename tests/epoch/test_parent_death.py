import os
import select
import signal
import subprocess
import sys

from tests.system.eventually import PATIENCE

CHILD = "from agent.epoch.parent_death import end_with_parent as e; e(); print('ready', flush=True); input()"
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {CHILD!r}]).wait()"


def test_it_exits_with_its_parent() -> None:
    """The child holds our pipe open while it lives: end of file means that it has exited."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        os.kill(parent.pid, signal.SIGKILL)
        assert select.select([parent.stdout], [], [], PATIENCE)[0], "the child lives on"
        assert parent.stdout.read() == b""
