"""Another user of the machine, and clients of the status port."""

import json
import os
import signal
import socket
import subprocess

import pytest

from tests.security.possessed import Possessed, cores, interpreter
from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.envoy]
STRANGER = 54321  # neither the agent's user nor the proxy's

TRIES = """
import json, os, socket, sys
run, agent, proxy = sys.argv[1], *map(int, sys.argv[2:])
number = next(each for each in range(1, 50) if os.path.isdir(f"{run}/{each}"))

def connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)

tries = {
    "list the run directory": lambda: os.listdir(run),
    "read the state": lambda: open(f"{run}/state.json").read(),
    "take the lock": lambda: open(f"{run}/lock"),
    "give orders": lambda: connect(f"{run}/control"),
    "list an epoch's directory": lambda: os.listdir(f"{run}/{number}"),
    "ask a console": lambda: connect(f"{run}/{number}/admin"),
    "knock at a gate": lambda: connect(f"{run}/{number}/gate"),
    "read statistics": lambda: open(f"{run}/{number}/stats"),
    **{f"read {name} of {who}": lambda pid=pid, name=name: os.listdir(f"/proc/{pid}/fd") if name == "fd"
       else open(f"/proc/{pid}/{name}", "rb").read()
       for who, pid in (("the agent", agent), ("the proxy", proxy)) for name in ("fd", "maps", "environ", "mem")},
    "end the proxy": lambda: os.kill(proxy, 15),
    "end the agent": lambda: os.kill(agent, 15),
}
got = []
for name, attempt in tries.items():
    try:
        attempt()
        got.append(name)
    except OSError:
        pass
print(json.dumps(got))
"""


def test_another_user_gets_at_nothing(possessed: Possessed) -> None:
    instance = possessed.instance
    command = [
        str(interpreter()),
        "-I",
        "-c",
        TRIES,
        str(instance.run_dir),
        str(instance.agent_pid),
        str(instance.serving_pid()),
    ]
    done = subprocess.run(
        command, user=STRANGER, group=STRANGER, extra_groups=[], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
    possessed.serves_on()


def say(instance: AgentFixture, text: str) -> bytes:
    """Send this to the status port; return the whole answer."""
    with socket.create_connection(("127.0.0.1", instance.status.port), timeout=PATIENCE) as line:
        line.sendall(text.replace("\n", "\r\n").encode())
        line.shutdown(socket.SHUT_WR)
        answer = b""
        while part := line.recv(65536):
            answer += part
    return answer


@pytest.mark.parametrize("page", ["/status", "/", "/metrics", "/events", "/stats"])
def test_a_page_whose_name_was_led_here_reads_nothing(possessed: Possessed, page: str) -> None:
    asked = f"GET {page} HTTP/1.1\nHost: evil.example:{possessed.instance.status.port}\nConnection: close\n\n"
    answer = say(possessed.instance, asked)
    assert answer.startswith(b"HTTP/1.1 421 ")
    assert b"epoch" not in answer
    assert say(possessed.instance, "GET /status HTTP/1.1\nHost: localhost\nConnection: close\n\n").startswith(
        b"HTTP/1.1 200 "
    )


@pytest.mark.parametrize(
    "more", ["Origin: http://127.0.0.1\n", "Sec-Fetch-Site: cross-site\n", "Sec-Fetch-Site: same-origin\n"]
)
def test_a_page_in_a_browser_drains_nothing(unstarted: AgentFixture, more: str) -> None:
    instance = unstarted
    instance.more_flags += ["--http-actions"]
    instance.start()
    head = f"POST /drain HTTP/1.1\nHost: 127.0.0.1\nContent-Length: 0\nConnection: close\n{more}\n"
    assert say(instance, head).startswith(b"HTTP/1.1 403 ")
    instance.rotate()
    instance.served()


def test_a_second_request_within_a_first_one_is_not_seen(possessed: Possessed) -> None:
    head = "POST /status HTTP/1.1\nHost: localhost\nContent-Length: 5\nTransfer-Encoding: chunked\n\n"
    answer = say(possessed.instance, f"{head}0\n\nGET /status HTTP/1.1\nHost: localhost\n\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_an_agent_that_crashes_leaves_no_core(possessed: Possessed) -> None:
    instance = possessed.instance
    os.kill(instance.agent_pid, signal.SIGSEGV)
    assert instance.exited() == -signal.SIGSEGV
    assert cores(instance) == []
    instance.launch()  # its files pass to the next one
    instance.ready()
