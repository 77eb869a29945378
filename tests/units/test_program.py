"""Where the agent may be so that a unit can start it. The refused places are those of public reports: an environment of
pipx below /root or /home (status 203/EXEC), an interpreter of uv below a home, a cache that uv empties.
"""

import sys
from pathlib import Path

import pytest

import agent
from agent.core.errors import MachineError
from agent.units import program
from agent.units.program import Program, check, running


def made(base: Path, interpreter: Path = Path("/usr/bin/python3")) -> Program:
    return Program(base / "bin/agent", base, interpreter, base / "lib/agent")


@pytest.fixture
def visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory of the test is not hidden: it is below /tmp."""
    monkeypatch.setattr(program, "HIDDEN", {"/home": "ProtectHome=yes"})


@pytest.mark.parametrize("base", ["/opt/proxy-agent", "/usr/local", "/srv/home/x", "/rooted", "/opt/a+b@1.2"])
def test_places_that_a_unit_can_read(base: str) -> None:
    check(made(Path(base)))


@pytest.mark.parametrize(
    ("base", "setting", "remedy"),
    [
        ("/root/.local/share/pipx/venvs/proxy-agent", "ProtectHome=yes", "outside of /root"),
        ("/home/u/.local/share/uv/tools/proxy-agent", "ProtectHome=yes", "outside of /home"),
        ("/run/user/1000/venv", "ProtectHome=yes", "outside of /run/user"),
        ("/tmp/venv", "PrivateTmp=yes", "outside of /tmp"),
        ("/var/tmp/venv", "PrivateTmp=yes", "outside of /var/tmp"),
    ],
)
def test_hidden_places(base: str, setting: str, remedy: str) -> None:
    with pytest.raises(MachineError, match=f"{setting} hides .*203/EXEC.*{remedy}: python3 -m venv /opt/proxy-agent"):
        check(made(Path(base)))


def test_an_interpreter_in_a_home_is_hidden_too() -> None:
    python = Path("/root/.local/share/uv/python/cpython-3.11/bin/python3.11")
    with pytest.raises(MachineError, match=r"hides /root/.local/share/uv/python/.* with an interpreter from elsewhere"):
        check(made(Path("/opt/uv/tools/proxy-agent"), python))


def test_a_package_in_a_checkout_below_home_is_hidden_too() -> None:
    editable = Program(Path("/opt/v/bin/agent"), Path("/opt/v"), Path("/usr/bin/python3"), Path("/home/u/src/agent"))
    with pytest.raises(MachineError, match="hides /home/u/src/agent from the service"):
        check(editable)


@pytest.mark.usefixtures("visible")
def test_links_are_followed(tmp_path: Path) -> None:
    link = tmp_path / "agent"
    link.symlink_to("/home/u/.local/bin/agent")
    with pytest.raises(MachineError, match=r"hides /home/u/\.local/bin/agent"):
        check(Program(link, tmp_path, tmp_path / "python", tmp_path))


@pytest.mark.parametrize(
    ("receipt", "command"),
    [("uv-receipt.toml", "UV_TOOL_DIR=.* uv tool install"), ("pipx_metadata.json", "PIPX_HOME=.* pipx install")],
)
def test_the_remedy_is_that_of_the_tool(tmp_path: Path, receipt: str, command: str) -> None:
    (tmp_path / receipt).touch()
    with pytest.raises(MachineError, match=command):
        check(made(tmp_path))


@pytest.mark.usefixtures("visible")
def test_a_cache_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "archive-v0/x"
    base.mkdir(parents=True)
    (base / "CACHEDIR.TAG").touch()  # uv marks each environment
    check(made(base))
    (tmp_path / "CACHEDIR.TAG").touch()
    with pytest.raises(MachineError, match=f"it is in the cache {tmp_path}, .*: UV_TOOL_DIR="):
        check(made(base))


@pytest.mark.parametrize("name", ["with space", "100%", "a$b", 'quo"te', "a;b", "new\nline", "ü", "back\\slash", "a'b"])
def test_a_path_that_a_unit_would_interpret_is_refused(name: str) -> None:
    with pytest.raises(MachineError, match="would interpret a character"):
        check(made(Path("/opt") / name))


def test_the_running_program_is_that_of_this_environment() -> None:
    found = running()
    assert found.path == Path(sys.executable).with_name("agent")
    assert found.package == Path(agent.__file__).parent
    assert (found.environment, found.interpreter) == (Path(sys.prefix), Path(sys.executable))


def test_the_link_that_was_called_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`/usr/local/bin/agent` stays valid when a tool creates the environment anew."""
    link = tmp_path / "agent"
    link.symlink_to(Path(sys.executable).with_name("agent"))
    monkeypatch.setattr(sys, "argv", [str(link), "systemd", "show"])
    assert running().path == link


def test_a_call_without_a_path_is_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "agent").symlink_to(Path(sys.executable).with_name("agent"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["agent"])
    assert running().path == tmp_path / "agent"


def test_an_environment_without_the_command_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(MachineError, match=f"there is no {tmp_path}/agent; install the package"):
        running()
