"""The tests mirror the package: a module is tested by the file of its name, in the directory of its name."""

from pathlib import Path

ROOT = Path(__file__).parents[1]

NOTHING_TO_TEST = {
    "__main__": "starts the command line",
    "demo/settings": "fields only",
    "demo/view": "a protocol",
    "injection/edits": "fields only",
    "handoff/hot_restart_pb2": "generated; `tests/handoff/check_proto.py` compares it with its source",
    "proxies/interface": "protocols and plain values",
    "proxies/link": "protocols and plain values",
    "sidecar/__main__": "starts the sidecar",
    "status/actions": "protocols and plain values",
    "supervisor/service": "fields only",
    "webhook/settings": "fields only",
}
"""The modules without a test file of their own, each with the reason."""


def modules() -> set[str]:
    """Return each module of the package, by its path without a suffix."""
    found = {path.relative_to(ROOT / "agent").with_suffix("").as_posix() for path in (ROOT / "agent").rglob("*.py")}
    return {each for each in found if not each.endswith("__init__")}


def covered() -> set[str]:
    """Return what the test files are named after."""
    files = (path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py"))
    return {path.with_name(path.stem.removeprefix("test_")).as_posix() for path in files}


def test_each_module_has_a_test_file_of_its_name() -> None:
    assert sorted(modules() - covered() - NOTHING_TO_TEST.keys()) == []


def test_the_exceptions_are_modules_without_a_test_file() -> None:
    assert sorted(NOTHING_TO_TEST.keys() - modules()) == []
    assert sorted(NOTHING_TO_TEST.keys() & covered()) == []
