import hashlib
import os
from pathlib import Path

import pytest

from agent.core.errors import UsageError
from agent.host.binaries import find, identity_of, open_binary


def program(directory: Path, name: str = "proxy", content: str = "#!/bin/sh\n") -> Path:
    made = directory / name
    made.write_text(content)
    made.chmod(0o755)
    return made


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    assert find(str(program(tmp_path))) == tmp_path / "proxy"


def test_a_name_is_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find(program(tmp_path, "some-proxy").name) == tmp_path / "some-proxy"


def test_envoy_is_the_program_in_its_wheel_and_not_the_script_before_it() -> None:
    pytest.importorskip("envoy")
    assert find("envoy").parts[-3:] == ("envoy", "_bin", "envoy")


def test_sidecar_is_the_one_beside_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for directory in (own, other):
        directory.mkdir()
        program(directory, "sidecar")
    monkeypatch.setenv("PATH", str(other))
    monkeypatch.setattr("sys.argv", ["-c"])
    monkeypatch.setattr("sys.executable", str(tmp_path / "python3"))
    assert find("sidecar") == other / "sidecar"
    monkeypatch.setattr("sys.executable", str(own / "python3"))
    assert find("sidecar") == own / "sidecar"


def test_what_is_nowhere_is_a_usage_error_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"cannot find no-such-proxy in PATH; give a path"):
        find("no-such-proxy")
    with pytest.raises(UsageError, match="there is no such file"):
        find("/no/such/proxy")


def test_a_file_that_is_no_program_is_a_usage_error(ordinary: Path) -> None:
    plain = ordinary / "plain"
    plain.write_text("x")
    with pytest.raises(UsageError, match="it is not executable"):
        find(str(plain))


def test_a_directory_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        find(f"{tmp_path}/")


def test_a_program_that_was_opened_stays_what_it_was(tmp_path: Path) -> None:
    path = program(tmp_path, content="#!/bin/sh\necho old\n")
    binary = open_binary(path)
    path.unlink()
    program(tmp_path, content="#!/bin/sh\necho new\n")
    assert binary.digest == hashlib.sha256(b"#!/bin/sh\necho old\n").hexdigest()
    assert identity_of(path) != binary.identity
    assert not os.get_inheritable(binary.descriptor)
    binary.close()


def test_an_untouched_program_has_one_identity(tmp_path: Path) -> None:
    path = program(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(path)
    binary = open_binary(link)
    assert identity_of(link) == identity_of(path) == binary.identity
    binary.close()


def test_a_program_written_in_place_is_another_one(tmp_path: Path) -> None:
    path = program(tmp_path)
    before = identity_of(path)
    path.write_text("#!/bin/sh\nexit 1\n")
    assert identity_of(path) != before


def test_what_is_not_there_has_no_identity_and_cannot_be_opened(tmp_path: Path) -> None:
    assert identity_of(tmp_path / "none") is None
    with pytest.raises(UsageError, match="cannot read"):
        open_binary(tmp_path / "none")
