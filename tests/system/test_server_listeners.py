"""The listeners of a server: families, paths, several of them, and how it tells that it is ready."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.eventually import PATIENCE, eventually
from tests.system.loads import Loads, nothing_failed
from tests.system.servers import FAULTY, MakeServer, Server, ServerFixture
from tests.system.wire import Target, parse, request_bytes

RUST = """
use std::{io::{Read, Write}, net::TcpListener, os::fd::FromRawFd, thread};
fn main() {
    assert_eq!(std::env::var("LISTEN_PID").unwrap(), std::process::id().to_string());
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    listener.set_nonblocking(false).unwrap();
    for stream in listener.incoming().flatten() {
        thread::spawn(move || {
            let mut stream = stream;
            while matches!(stream.read(&mut [0; 4096]), Ok(n) if n > 0) {
                if stream.write_all(b"HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\n\\r\\nok\\n").is_err() { break }
            }
        });
    }
}
"""
GO = """
package main
import ("net"; "net/http"; "os")
func main() {
    listener, err := net.FileListener(os.NewFile(3, "web"))
    if err != nil { panic(err) }
    http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("ok\\n")) }))
}
"""


def swap(instance: ServerFixture, by: Callable[[], object]) -> None:
    """Replace the serving epoch, and wait until it has ended."""
    before = instance.serving().number
    by()
    eventually(lambda: instance.serving().number > before, what="the next one serves")
    instance.settled()


def restart(instance: ServerFixture) -> None:
    command = [sys.executable, "-m", "agent", "restart", "--run-dir", str(instance.run_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("listen", "hosts"),
    [
        ("[::1]", ["::1"]),
        pytest.param("0.0.0.0", ["127.0.0.1"], marks=pytest.mark.long),
        ("[::]", ["::1", "127.0.0.1"]),
    ],
)
def test_families(make_server: MakeServer, loads: Loads, listen: str, hosts: list[str]) -> None:
    instance = make_server(FAULTY)
    instance.listeners = [f"web={listen}:{instance.tls.port}"]
    instance.tls = replace(instance.tls, host=hosts[0])
    instance.start()
    for host in hosts:
        loads.start("bursts", replace(instance.tls, host=host), clients=10, pace=0.02)
    swap(instance, instance.rotate)
    swap(instance, instance.rotate)
    instance.served()
    nothing_failed(loads.finish(at_least=30))


def asked(path: Path) -> bool:
    """Make one request at a Unix path."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        client.sendall(request_bytes(last=True))
        data = b""
        while parse(data) is None:
            more = client.recv(4096)
            assert more, data
            data += more
    return True


@pytest.mark.long
def test_a_path_is_replaced_without_a_gap(make_server: MakeServer) -> None:
    instance = make_server(FAULTY, more_flags=["--survive"])
    path = instance.directory / "web.sock"
    instance.listeners += [f"local=plain:unix:{path}"]
    instance.plain_names = ("local",)
    instance.start()
    for by in (instance.rotate, lambda: restart(instance)):
        before = instance.serving().number
        by()
        while instance.serving().number == before:
            assert asked(path)
        instance.settled()
        assert asked(path)
    pid = instance.serving_pid()
    instance.kill_agent()
    assert asked(path)
    instance.launch()
    instance.ready()
    assert instance.serving_pid() == pid
    swap(instance, instance.rotate)
    assert asked(path)
    os.kill(instance.serving_pid(), 9)
    eventually(lambda: asked(path), what="the next one answers at the same path")
    eventually(instance.serving, what="it is committed")
    assert [each.name for each in instance.directory.glob("web.sock*")] == ["web.sock"]
    assert stat.S_ISSOCK(path.stat().st_mode)
    instance.stop()
    assert not path.exists()


def test_a_listener_without_tls_beside_one_with_it(make_server: MakeServer, loads: Loads) -> None:
    """Only the check of its name is asked for at a listener, and only those with certificates are verified."""
    instance = make_server(FAULTY)
    instance.listeners += [f"status=plain:127.0.0.1:{instance.plain.port}"]
    instance.plain_names = ("status",)
    instance.server = replace(instance.server, options=("--check", "status: GET /"))
    instance.start()
    loads.start("closed", instance.tls, clients=2)
    loads.start("closed", instance.plain, clients=2)
    swap(instance, instance.rotate)
    instance.served()
    nothing_failed(loads.finish(at_least=30))
    assert "verified at 1 of 1 listeners" in instance.journal.path.read_text(encoding="utf-8")


@pytest.mark.root
def test_a_server_of_another_user_has_what_it_needs(make_server: MakeServer) -> None:
    instance = make_server(FAULTY, more_flags=["--proxy-user", "65534"])
    instance.start()
    status = Path(f"/proc/{instance.serving_pid()}/status").read_text(encoding="ascii")
    assert "Uid:\t65534" in status
    swap(instance, instance.rotate)
    instance.served()


COMPILERS = {
    "rust": ("rustc", RUST, "server.rs", ("-O", "-o")),
    "go": ("go", GO, "server.go", ("build", "-o")),
}


@pytest.mark.long
@pytest.mark.parametrize("language", list(COMPILERS))
def test_ten_lines_of_a_compiled_language(
    make_server: MakeServer,
    loads: Loads,
    tmp_path: Path,
    language: str,
) -> None:
    program, text, name, flags = COMPILERS[language]
    if shutil.which(program) is None:
        pytest.skip(f"no {program}")
    (tmp_path / name).write_text(text, encoding="ascii")
    command = [program, *flags, str(tmp_path / "server"), str(tmp_path / name)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    instance = make_server(FAULTY)
    instance.server = Server(language, str(tmp_path / "server"), (), ("--check", "GET /"))
    instance.tls = Target("127.0.0.1", instance.tls.port)
    instance.start()
    loads.start("bursts", instance.tls, clients=20, pace=0.02)
    loads.start("closed", instance.tls, clients=3)
    for _ in range(5):
        swap(instance, lambda: restart(instance))
    nothing_failed(loads.finish(at_least=50))


def test_a_refusal_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agent", "--run-dir", str(tmp_path), "--proxy-bin", "/bin/true"]
    words = ["--listen", "web=127.0.0.1:0"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("AGENT_")}
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=PATIENCE, check=False, env=own)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "port 0; name a port" in line
