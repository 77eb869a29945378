from pathlib import Path

import pytest

from agent.units import UNITS
from agent.units.program import HIDDEN
from agent.units.unit_files import UnitFile, all_names, is_unchanged, unit_files
from docs.generator.unit_file import read_unit

ROOT = Path(__file__).parents[2]
PROGRAM = Path("/opt/x/bin/agent")
FILES = unit_files(PROGRAM, notify_reload=True)
names = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


def test_the_package_has_the_files_of_the_repository() -> None:
    shipped = {path.name: path.read_bytes() for path in (ROOT / "systemd").iterdir()}
    packaged = {path.name: path.read_bytes() for path in (ROOT / "agent/units").iterdir() if path.name in shipped}
    assert packaged == shipped
    assert set(UNITS) < shipped.keys()


def test_every_place_of_the_program_is_replaced() -> None:
    for file in FILES:
        assert "/usr/local/bin" not in file.text
    service = FILES[0].text
    assert service.count(f"{PROGRAM} ") == 3, "ExecStart, ExecReload, ExecStopPost"
    assert f"\nExecStart={PROGRAM} --survive" in service


def test_without_a_program_of_another_place_the_text_is_that_of_the_repository() -> None:
    for file in unit_files(Path("/usr/local/bin/agent"), notify_reload=False):
        assert file.text == (ROOT / "systemd" / file.name).read_text(encoding="utf-8")


def test_the_drop_ins_are_written_only_if_wanted() -> None:
    assert [file.name for file in FILES] == all_names()
    assert [file.name for file in unit_files(PROGRAM, notify_reload=False)] == list(UNITS)
    assert [file.unit for file in FILES[-2:]] == ["agent.service", "agent@.service"]
    assert "Type=notify-reload" in FILES[-1].text


@names
def test_a_written_file_is_recognised_whatever_its_program(file: UnitFile) -> None:
    assert is_unchanged(file.name, file.signed)
    assert file.signed.endswith(f"\n{file.text}")
    assert f"systemctl edit {file.unit}\n" in file.signed


@names
def test_the_head_consists_of_comments(file: UnitFile, tmp_path: Path) -> None:
    for name, text in (("signed", file.signed), ("plain", file.text)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    signed, plain = (read_unit(tmp_path / name)[1:] for name in ("signed", "plain"))
    assert signed == plain


@names
def test_a_copy_of_the_file_that_ships_is_recognised(file: UnitFile) -> None:
    shipped = unit_files(Path("/usr/local/bin/agent"), notify_reload=True)
    (same,) = [each.text for each in shipped if each.name == file.name]
    assert is_unchanged(file.name, same)


@names
@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text + "LimitCORE=0\n",
        lambda text: text.replace("[", "# local\n[", 1),
        lambda text: text.replace("# SHA-256", "# SHA256"),
        lambda text: text.partition("\n")[2],
        lambda text: text.splitlines()[0],
        lambda text: "\n".join(text.splitlines()[:2]),
        lambda _: "",
        lambda _: "[Service]\nExecStart=/usr/bin/other\n",
    ],
    ids=["line added", "comment added", "head", "head cut", "one line", "two lines", "empty", "another"],
)
def test_an_edited_file_is_not(file: UnitFile, edit: "object") -> None:
    assert callable(edit)
    assert not is_unchanged(file.name, edit(file.signed))


def test_a_file_of_another_name_is_not() -> None:
    assert not is_unchanged("agent@.service", FILES[0].signed)


def test_the_services_set_what_hides_the_directories() -> None:
    for name in ("agent.service", "agent@.service"):
        lines = (ROOT / "systemd" / name).read_text(encoding="utf-8").splitlines()
        assert set(HIDDEN.values()) <= set(lines)
