"""The entry point of `agent`."""

import subprocess
import sys

_PROGRAM = """
import signal, sys
class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "agent.cli.main":
            print(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))
sys.meta_path.insert(0, Spy())
sys.argv = ["agent", "version"]
from agent.entry import main
main()
"""


def test_signals_wait_while_the_command_line_is_imported() -> None:
    """The import takes a tenth of a second, in which a signal must not end an agent that is to adopt proxies."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "True"
