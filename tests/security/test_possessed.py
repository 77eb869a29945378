"""A compromised proxy: the agent, which is root, is neither redirected nor blocked, and continues to serve."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from tests.security.possessed import NOBODY, Possessed, cores
from tests.system.agent_fixture import AgentFixture
from tests.system.bare import live
from tests.system.counts import count
from tests.system.eventually import PATIENCE, eventually

pytestmark = [pytest.mark.root, pytest.mark.envoy]  # of one kind: the compromised proxy is always the sidecar
SECRET = "root's own secret"
RACES = count("AGENT_RACES", short=1, long=3)

# The first steps of every attack on the protocol.
SPEAK = """
    import glob, socket, sys
    from agent.handoff.framing import cut
    from agent.handoff.hot_restart_pb2 import HotRestartMessage, Request
    agent = next(name for name in glob.glob(home + "/hr_parent_*") if name.endswith("0"))
    line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    line.setblocking(False)

    def ask(address, worker=0):
        wanted = Request.PassListenSocket(address=address, worker_index=worker)
        for part in cut(HotRestartMessage(request=Request(pass_listen_socket=wanted))):
            line.sendto(part, agent)
"""


@pytest.fixture
def surviving(unstarted: AgentFixture) -> Possessed:
    """Let its proxies outlive the agent."""
    made = Possessed(unstarted)
    made.instance.more_flags += ["--survive"]
    made.start()
    return made


FORGERIES = {
    "a handle of a file of root's": "put(os.open({secret!r}, os.O_PATH))",
    "a pipe without a writer": "os.mkfifo(home + '/pipe'); put(os.open(home + '/pipe', os.O_RDWR))",
    "memory of its own": "fd = os.memfd_create('x'); os.sendfile(fd, number, 0, 1 << 20); put(fd)",
    "a directory": "put(os.open(home, os.O_RDONLY))",
}


LATER = pytest.mark.long
LONG = ("memory of its own", "a directory")


@pytest.mark.parametrize("forgery", [pytest.param(each, marks=LATER if each in LONG else ()) for each in FORGERIES])
def test_a_forged_manifest_is_not_opened(surviving: Possessed, forgery: str) -> None:
    instance = surviving.instance
    secret = instance.directory / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    number = instance.serving().manifest
    text = FORGERIES[forgery].format(secret=str(secret))
    surviving.order(f"import os\nnumber = {number}\nput = lambda fd: os.dup2(fd, number)\n{text}")
    before = instance.serving()
    instance.kill_agent()
    instance.launch()
    instance.ready()
    (said,) = surviving.logged("epoch.not_adopted")
    assert f"epoch {before.number} (pid {before.pid}) cannot be adopted and is terminated" in said
    assert "another file now" in said
    surviving.serves_on()
    for epoch in instance.epochs():
        for descriptor in Path(f"/proc/{epoch.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed in between
                assert str(secret) not in str(descriptor.readlink())
    assert SECRET not in instance.journal.path.read_text()


def test_a_proxy_that_sends_and_does_not_read_loses_only_its_channel(possessed: Possessed) -> None:
    instance = possessed.instance
    open_before, proxy = psutil.Process(instance.agent_pid).num_fds(), instance.serving_pid()
    flood = f"""
    import asyncio, gc, threading, time
    loop = next(each for each in gc.get_objects() if isinstance(each, asyncio.AbstractEventLoop))
    loop.call_soon_threadsafe(time.sleep, 3600)  # it reads no answer any more

    def flood():
        while True:
            try:
                ask("tcp://127.0.0.1:{instance.tls.port}")
            except OSError:
                time.sleep(0.001)

    threading.Thread(target=flood, daemon=True).start()
    """
    possessed.order(SPEAK + flood)
    eventually(lambda: possessed.logged("handoff.broken"), what="the channel is closed")
    assert psutil.Process(instance.agent_pid).num_fds() < open_before + 200
    live(instance.status)
    possessed.serves_on()
    psutil.Process(proxy).kill()  # it would not exit by itself


NONSENSE = ["tcp://127.0.0.1:99999", "tcp://example.invalid:443"]


@pytest.mark.parametrize(
    "address", [*NONSENSE, *(pytest.param(each, marks=LATER) for each in ("garbage", "tcp://:80", ""))]
)
def test_a_nonsensical_address_costs_its_sender_the_channel(possessed: Possessed, address: str) -> None:
    possessed.order(f"{SPEAK}\n    ask({address!r})")
    (said,) = eventually(lambda: possessed.logged("handoff.broken"), what="it is said")
    assert "it is not an IP address with a port" in said
    assert "Traceback" not in possessed.instance.journal.path.read_text()
    possessed.serves_on()


def test_an_unnamed_low_port_is_not_bound_for_it(possessed: Possessed) -> None:
    possessed.order(f"{SPEAK}\n    ask('tcp://127.0.0.1:22')")
    (said,) = eventually(lambda: possessed.logged("handoff.refused"), what="it is said")
    assert "tcp://127.0.0.1:22" in said
    listening = {each.laddr.port for each in psutil.Process(possessed.instance.agent_pid).net_connections("inet")}
    assert 22 not in listening
    possessed.serves_on()


@contextmanager
def victim(path: Path) -> Iterator[socket.socket]:
    """Return a socket of root that only root may reach."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
        listener.setblocking(False)
        yield listener
    path.unlink()


def test_a_socket_of_roots_that_it_asks_for_is_not_tried(possessed: Possessed) -> None:
    with victim(possessed.instance.directory / "victim") as listener:
        possessed.order(f"{SPEAK}\n    ask('unix://{possessed.instance.directory}/victim')")
        possessed.serves_on()
        with pytest.raises(BlockingIOError):
            listener.accept()


ENDLESS = """
    import os, socket, threading
    os.unlink(home + "/admin")
    own = socket.socket(socket.AF_UNIX)
    own.bind(home + "/admin")
    own.listen(100)

    def pour(client):
        try:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
            while True:
                client.sendall(b"[" * 65536)
        except OSError:
            client.close()

    def serve():
        while True:
            threading.Thread(target=pour, args=(own.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
"""


def test_an_endless_admin_answer_costs_a_bounded_amount_of_memory(possessed: Possessed) -> None:
    instance = possessed.instance
    possessed.order(ENDLESS)
    process, peak = psutil.Process(instance.agent_pid), 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.01):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for page in ("metrics", "status", "stats/prometheus"):
            with urlopen(f"http://127.0.0.1:{instance.status.port}/{page}", timeout=PATIENCE) as answer:
                answer.read()
        possessed.serves_on()  # it drains in between, and is asked for its number of clients
    finally:
        ended.set()
        watcher.join()
    assert peak < 300 << 20


def test_files_in_its_directory_do_not_block_the_agent(possessed: Possessed) -> None:
    """Deeper than the recursion limit, and more than a moment's work; with a link out of it."""
    instance, home = possessed.instance, possessed.home
    kept = instance.directory / "kept"
    kept.mkdir()
    (kept / "file").write_text("root's")
    possessed.order(f"""
    import os
    at = os.open(home, os.O_RDONLY)
    os.symlink({str(kept)!r}, home + "/link")
    for number in range(3000):
        open(home + f"/f{{number}}", "w").close()
    for _ in range(2000):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    """)
    os.kill(instance.serving_pid(), signal.SIGKILL)
    eventually(lambda: not home.exists(), what="the directory is gone")
    instance.ready()
    assert (kept / "file").read_text() == "root's"
    possessed.serves_on()


def test_it_has_neither_the_agents_terminal_nor_a_core_to_leave(possessed: Possessed) -> None:
    instance = possessed.instance
    pid = instance.serving_pid()
    assert os.getsid(pid) == pid != os.getsid(instance.agent_pid)
    possessed.order("""
    import resource
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] in (0, 1), resource.getrlimit(resource.RLIMIT_CORE)
    try:
        open("/dev/tty")
    except OSError:
        pass
    else:
        raise AssertionError("it has a terminal")
    """)
    os.kill(pid, signal.SIGSEGV)
    eventually(lambda: not psutil.pid_exists(pid), what="it is dead")
    instance.ready()
    assert cores(instance) == []


def test_its_counters_cannot_use_the_agents_names(possessed: Possessed) -> None:
    instance = possessed.instance
    possessed.order("""
    import os
    path = os.environ["PROXY_AGENT_STATS"]
    os.unlink(path)
    os.symlink("/etc/shadow", path)
    """)
    with urlopen(f"http://127.0.0.1:{instance.status.port}/metrics", timeout=PATIENCE) as answer:
        assert b"proxy_agent_ready 1" in answer.read()
    possessed.serves_on()


RACE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Exchange the gates of the next epochs for links to a file of root's, without rest. */
int main(int argc, char **argv)
{
    char gate[400], beside[400];
    for (;;)
        for (int number = atoi(argv[3]); number < atoi(argv[3]) + 3; number++) {
            snprintf(gate, sizeof gate, "%s/%d/gate", argv[1], number);
            snprintf(beside, sizeof beside, "%s/%d/.evil%d", argv[1], number, getpid());
            if (symlink(argv[2], beside) == 0)
                rename(beside, gate);
        }
}
"""


@pytest.fixture
def racer(tmp_path: Path) -> Path:
    """Return the compiled program; skip the test if there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = tmp_path / "race.c"
    source.write_text(RACE)
    subprocess.run([compiler, "-O2", "-o", tmp_path / "race", source], check=True)
    (tmp_path / "race").chmod(0o755)
    return tmp_path / "race"


@pytest.mark.long
def test_no_race_makes_a_file_of_roots_the_proxys(possessed: Possessed, racer: Path) -> None:
    """It damages every new epoch, which belongs to its user; and gains nothing by it."""
    instance = possessed.instance
    prize = instance.directory / "prize"
    prize.write_text(SECRET)
    prize.chmod(0o600)
    before = prize.stat()
    program = instance.directory / "race"
    program.write_bytes(racer.read_bytes())
    program.chmod(0o755)
    serving = instance.serving().number
    with ExitStack() as racers:
        for _ in range(2):
            one = subprocess.Popen(
                [program, instance.run_dir, prize, str(serving + 1)], user=NOBODY, group=NOBODY, extra_groups=[]
            )
            racers.enter_context(one)
            racers.callback(one.kill)
        for _ in range(RACES):
            tried = instance.state().next_epoch
            instance.rotate()
            eventually(lambda: instance.state().next_epoch > tried, what="an epoch was tried")  # noqa: B023
            live(instance.status)
    after = prize.stat()
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (0, 0, 0o600)
    assert after.st_ctime_ns == before.st_ctime_ns
    assert prize.read_text() == SECRET
    assert instance.state().next_epoch > serving
    possessed.serves_on()
