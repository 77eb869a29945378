from pathlib import Path

import pytest

from agent.core.errors import BadInput
from agent.epoch.configuration import read
from agent.proxies.envoy.configuration import Configuration as Operators

APP = """\
greeting: hello
tls: {certificate_chain: {filename: /etc/tls.crt}}
"""


def test_additions_of_the_agent_are_removed_and_returned(tmp_path: Path) -> None:
    """The input is the private copy that the agent itself would write."""
    (tmp_path / "app.yaml").write_text(APP)
    main, _ = Operators(APP, "app.yaml").copies(["/etc/tls.crt"]).fill("/run/1", 1, {"/etc/tls.crt": 9})
    (tmp_path / "copy.yaml").write_text(main)
    found = read(str(tmp_path / "copy.yaml"), None)
    assert found.tree == {"greeting": "hello", "tls": {"certificate_chain": {"filename": "/dev/fd/9"}}}
    assert found.gate == Path("/run/1/gate")
    assert found.console == {"pipe": {"path": "/run/1/admin", "mode": 0o600}}


def test_what_is_the_applications_own_stays(tmp_path: Path) -> None:
    text = "static_resources: {clusters: [{name: mine}], listeners: []}\nadmin: {name: root}\n"
    main, _ = Operators(text, "app.yaml").copies([]).fill("/run/1", 1, {})
    (tmp_path / "copy.yaml").write_text(main)
    found = read(str(tmp_path / "copy.yaml"), None)
    assert found.tree == {"static_resources": {"clusters": [{"name": "mine"}]}, "admin": {"name": "root"}}


def test_without_an_agent_there_is_neither_gate_nor_admin_interface(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text(APP)
    found = read(str(tmp_path / "app.yaml"), None)
    assert (found.tree["greeting"], found.gate, found.console) == ("hello", None, None)


def test_more_is_merged_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text("a: {b: 1, c: [1]}\nd: 1\n")
    assert read(str(tmp_path / "app.yaml"), "a: {b: 2, c: [2]}\ne: 3").tree == {
        "a": {"b": 2, "c": [1, 2]},
        "d": 1,
        "e": 3,
    }


def test_nothing_is_an_empty_mapping() -> None:
    assert read(None, None).tree == read(None, "# only this").tree == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"a: [", "cannot read .*app.yaml: line 2: "),
        (b"- a", "its root is not a mapping"),
        (b"\xff\xfe\xfd", "cannot read .*app.yaml: .*decode"),
        (b"a: !!python/object:os.system {}", "line 1"),
        (b"a: \x01", "cannot read .*app.yaml"),
        (b"[" * 201, "nested more than 200 levels"),
        (b"[" * 100_000, "nested more than 200 levels"),
    ],
)
def test_an_invalid_configuration_is_reported_with_its_line(text: bytes, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_bytes(text)
    with pytest.raises(BadInput, match=complaint):
        read(str(tmp_path / "app.yaml"), None)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        read(str(tmp_path / "app.yaml"), None)
