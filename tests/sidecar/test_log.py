import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.errors import UsageError
from agent.sidecar.log import Log, Pattern


@pytest.fixture(autouse=True)
def root() -> Iterator[logging.Logger]:
    """Give the root logger back as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture
def kolkata(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be at +05:30 for a test."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        yield
    time.tzset()


def record(message: str = "hello", level: int = logging.WARNING, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("upstream", level, "/opt/venv/agent/sidecar/x.py", 42, message, (), None, "serve")
    made.created = 1_000_000_007.123456789
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def line(pattern: str, *given: logging.LogRecord) -> str:
    return Pattern(pattern).format(given[0] if given else record())


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("%v", "hello"), ("%l", "warning"), ("%L", "W"), ("%n", "upstream"), ("%s", "x.py"), ("%#", "42"),
        ("%!", "serve"), ("%g", "agent/sidecar/x.py"), ("%%", "%"), ("%^", ""), ("%$", ""), ("%e", "123"),
        ("%f", "123456"), ("%F", "123456836"), ("%E", "1000000007"),
    ],
)  # fmt: skip
def test_a_flag_tells_of_the_record(flag: str, text: str) -> None:
    assert line(flag) == text
    assert line(f"[{flag}]{flag}") == f"[{text}]{text}"


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("%Y-%m-%d %T", "2001-09-09 07:16:47"), ("%C", "01"), ("%D", "09/09/01"), ("%x", "09/09/01"),
        ("%H", "07"), ("%I", "07"), ("%M", "16"), ("%S", "47"), ("%p", "AM"), ("%r", "07:16:47 AM"), ("%R", "07:16"),
        ("%X", "07:16:47"), ("%a", "Sun"), ("%A", "Sunday"), ("%b", "Sep"), ("%B", "September"), ("%z", "+05:30"),
    ],
)  # fmt: skip
def test_a_date_is_local_and_has_envoy_s_forms(kolkata: None, flag: str, text: str) -> None:
    assert line(flag) == text


def test_process_and_thread_have_numbers() -> None:
    assert line("%P/%t") == f"{os.getpid()}/{threading.get_native_id()}"


def test_an_offset_west_of_greenwich_is_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/St_Johns")
        time.tzset()
        assert line("%z") == "-02:30"
    time.tzset()


@pytest.mark.parametrize("pattern", ["%q", "%", "a%", "%-", "%8", "%é", "50% q", "% v"])
def test_an_unknown_flag_stays_as_it_is(pattern: str) -> None:
    assert line(pattern) == pattern


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("[%8v]", "[   hello]"),
        ("[%-8v]", "[hello   ]"),
        ("[%=8v]", "[ hello  ]"),
        ("[%=9v]", "[  hello  ]"),
        ("[%3v]", "[hello]"),
        ("[%5v]", "[hello]"),
        ("[%-v]", "[hello]"),
        ("[%=v]", "[hello]"),
        ("[%08v]", "[   hello]"),
        ("[%3%]", "[  %]"),
        ("[%8q]", "[%8q]"),
    ],
)
def test_a_width_pads_and_never_cuts(pattern: str, text: str) -> None:
    assert line(pattern) == text


@pytest.mark.parametrize(
    ("level", "name", "letter"), [(logging.DEBUG, "debug", "D"), (logging.CRITICAL, "critical", "C")]
)
def test_a_level_has_a_name_and_a_letter(level: int, name: str, letter: str) -> None:
    assert line("%l%L", record(level=level)) == name + letter


def test_a_message_has_its_arguments_and_its_traceback() -> None:
    error = ValueError("why")
    made = record("a %s", args=("b",), exc_info=(ValueError, error, None))
    told = line("%v", made)
    assert told == "a b\nValueError: why"
    assert "\n" not in line("%_", made)
    assert line("%_", made) == told.replace("\n", "\\n")


def test_a_percent_sign_in_a_message_is_no_flag() -> None:
    assert line("%v %l", record("50%v %n")) == "50%v %n warning"


def test_a_path_without_the_package_is_told_whole() -> None:
    assert line("%g", record(pathname="/usr/lib/asyncio/x.py")) == "/usr/lib/asyncio/x.py"
    assert line("%g", record(pathname="/agent/venv/agent/x.py")) == "agent/x.py"


# Where it is written


def written(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.mark.parametrize(
    ("level", "shown"),
    [("trace", 5), ("debug", 5), ("info", 4), ("warning", 3), ("warn", 3), ("error", 2), ("critical", 1), ("off", 0)],
)
def test_a_level_leaves_out_what_is_below(tmp_path: Path, level: str, shown: int) -> None:
    log = Log(level, "%l", str(tmp_path / "log"))
    logger = logging.getLogger("main")
    for each in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logger.log(each, "x")
    everything = ["debug", "info", "warning", "error", "critical"]
    assert written(tmp_path / "log") == everything[len(everything) - shown :]
    os.close(log._descriptor)


@pytest.mark.parametrize("level", ["", "INFO", "loud"])
def test_a_level_that_is_none_is_told_with_those_that_are(level: str) -> None:
    with pytest.raises(UsageError, match=r"trace, debug, info"):
        Log(level, None, None)


def test_a_pattern_has_a_default_and_may_change(tmp_path: Path) -> None:
    log = Log("info", None, str(tmp_path / "log"))
    logging.getLogger("main").info("one")
    log.use("%v!")
    logging.getLogger("main").info("two")
    first, second = written(tmp_path / "log")
    assert first.startswith("[2")
    assert f"[{threading.get_native_id()}][info][main] [" in first
    assert first.endswith("] one")
    assert second == "two!"
    os.close(log._descriptor)


def test_an_empty_pattern_is_one(tmp_path: Path) -> None:
    log = Log("info", "", str(tmp_path / "log"))
    logging.getLogger("main").info("one")
    assert written(tmp_path / "log") == [""]
    os.close(log._descriptor)


def test_there_is_one_handler(tmp_path: Path, root: logging.Logger) -> None:
    root.addHandler(logging.NullHandler())
    log = Log("info", "%v", str(tmp_path / "log"))
    assert len(root.handlers) == 1
    os.close(log._descriptor)


def test_a_file_is_appended_to_and_private(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    os.close(Log("info", "%v", str(path))._descriptor)
    log = Log("info", "%v", str(tmp_path / "new"))
    logging.getLogger("main").info("x")
    assert path.read_text() == "before\n"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640 & ~_umask()
    assert not os.get_inheritable(log._descriptor)
    os.close(log._descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


@pytest.mark.parametrize("path", ["/no/such/directory/log", "/"])
def test_a_file_that_cannot_be_written_is_told(path: str) -> None:
    with pytest.raises(UsageError, match=path):
        Log("info", None, path)


def test_standard_error_is_the_default_and_is_not_reopened(capfd: pytest.CaptureFixture[str]) -> None:
    log = Log("info", "%v", None)
    log.reopen()
    logging.getLogger("main").info("hello")
    assert capfd.readouterr().err == "hello\n"


def test_a_file_that_was_moved_is_opened_anew(tmp_path: Path) -> None:
    path, moved = tmp_path / "log", tmp_path / "log.1"
    log = Log("info", "%v", str(path))
    logging.getLogger("main").info("one")
    path.rename(moved)
    logging.getLogger("main").info("two")
    before = len(list(Path("/proc/self/fd").iterdir()))
    log.reopen()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    logging.getLogger("main").info("three")
    assert (written(moved), written(path)) == (["one", "two"], ["three"])
    assert not os.get_inheritable(log._descriptor)
    os.close(log._descriptor)


def test_a_file_that_cannot_be_opened_anew_stays_in_use(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    log = Log("info", "%l %v", str(directory / "log"))
    directory.rename(tmp_path / "e")
    log.reopen()
    [told] = written(tmp_path / "e" / "log")
    assert told.startswith("warning ")
    assert str(directory / "log") in told
    os.close(log._descriptor)
