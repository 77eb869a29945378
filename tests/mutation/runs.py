"""Runs of tests: once for what each test executes, then once a mutant.

What is imported stays imported from run to run; only the mutated module, and what imports it, is loaded anew.
"""

import gc
import importlib
import json
import marshal
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import CodeType

import coverage
import pytest

from tests.mutation.forks import TIMEOUT, at_work, run
from tests.mutation.mutants import Mutant
from tests.mutation.site import sitecustomize

_SITE = str(Path(sitecustomize.__file__).parent)
_PATIENCE, _LEAST = 10, 5.0  # times as long as without a change; seconds
_OPTIONS = (
    *("-q", "--assert=plain", "--tb=no", "--no-header", "-pno:cacheprovider", "-m", "not long and not quiet"),
    *("-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin"),
)


@dataclass(slots=True)
class Profile:
    """What a run of tests showed: `lines` by file and line, seconds by test, imported modules in order."""

    lines: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    starting: list[str] = field(default_factory=list)  # tests that start processes: they run more than coverage sees
    modules: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Module:
    """A module to mutate, and what its room's tests showed."""

    path: Path
    profile: Profile

    @property
    def name(self) -> str:
        """Its name in an import statement."""
        return ".".join(self.path.relative_to(Path.cwd()).with_suffix("").parts).removesuffix(".__init__")

    def tests(self, mutant: Mutant | None = None) -> list[str]:
        """Return the tests that execute a mutant's statement, or any of the module; its own file comes first.

        A test of a constant or of an enumeration executes no line of the module, so the whole own file is run for a
        mutant of code that runs at import.
        """
        profile, lines = self.profile, self.profile.lines.get(str(self.path), {})
        wanted = lines if mutant is None or mutant.imported else mutant.lines
        anywhere = {test for tests in lines.values() for test in tests if test}
        files = {_file(test) for test in anywhere}
        chosen = {test for line in wanted for test in lines.get(line, ()) if test}
        if mutant is None or mutant.imported:
            chosen |= set(filter(self._is_own, profile.seconds))
        chosen |= {test for test in profile.starting if _file(test) in files or self._is_own(test)}
        chosen -= set(profile.failed)
        total: defaultdict[str, float] = defaultdict(float)
        for test in chosen:
            total[_file(test)] += profile.seconds.get(test, 0.0)
        known, seconds = [test for test in chosen if test in profile.seconds], profile.seconds
        return sorted(known, key=lambda test: (not self._is_own(test), total[_file(test)], _file(test), seconds[test]))

    def _is_own(self, test: str) -> bool:
        return Path(_file(test)).name == f"test_{self.path.stem}.py"


class _Recorder:
    def __init__(self, measured: coverage.Coverage | None = None) -> None:
        self.profile = Profile()
        self._coverage = measured
        self._test = ""
        sys.addaudithook(self._hear)

    def _hear(self, event: str, _: tuple[object, ...]) -> None:
        if event in {"subprocess.Popen", "os.fork", "os.posix_spawn"} and self._test not in self.profile.starting:
            self.profile.starting.append(self._test)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._test = nodeid
        if self._coverage:
            self._coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        profile = self.profile
        profile.seconds[report.nodeid] = profile.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed and report.nodeid not in profile.failed:
            profile.failed.append(report.nodeid)


class _Selection:
    """Keeps the tests that have a limit in seconds, in that order, and lets hypothesis neither shrink nor remember."""

    def __init__(self, limits: dict[str, float]) -> None:
        self._limits = limits

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings  # noqa: PLC0415 - after its plugin

        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutation", settings(), phases=phases, database=None, derandomize=True)
        settings.load_profile("mutation")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self._limits:
            order = list(self._limits)
            items[:] = [item for item in items if item.nodeid in self._limits]
            items.sort(key=lambda item: order.index(item.nodeid))
            for item in items:
                item.add_marker(pytest.mark.timeout(self._limits[item.nodeid]))


def profile_of(tests: Sequence[str], sources: Sequence[Path]) -> Profile:
    """Run the tests once; return what they execute of `sources`."""

    def work(place: Path) -> Iterable[object]:
        result = place / "profile.json"
        run(place, lambda: _measure(tests, sources, result))
        yield json.loads(result.read_text(encoding="utf-8"))

    [told] = at_work([work])
    lines = {path: {int(line): tests for line, tests in found.items()} for path, found in told.pop("lines").items()}
    return Profile(lines=lines, **told)


def failures_of(module: Module) -> list[str]:
    """Run the module's tests with it unchanged, in the way in which its mutants are run; return those that fail."""
    code = compile(module.path.read_text(encoding="utf-8"), str(module.path), "exec")
    limits = dict.fromkeys(module.tests(), 600.0)

    def work(place: Path) -> Iterable[object]:
        _import_others(module)
        result = place / "failures.json"
        run(place, lambda: _test(module, code, limits, recorded=result))
        yield json.loads(result.read_text(encoding="utf-8"))

    [failed] = at_work([work])
    return list(failed)


def fates_of(
    module: Module, mutants: Sequence[Mutant], chosen: Sequence[int], workers: int
) -> Iterator[tuple[int, str]]:
    """Run each mutant's tests until one fails; yield its number and `killed`, `timeout`, `survived` or `untested`."""

    def work(place: Path, numbers: Sequence[int]) -> Iterable[object]:
        _import_others(module)
        for number in numbers:
            tests = module.tests(mutants[number])
            yield number, _fate(place, module, mutants[number].code, tests) if tests else "untested"

    parts = [chosen[part::workers] for part in range(workers)]
    yield from at_work([partial(work, numbers=part) for part in parts if part])


def _fate(place: Path, module: Module, code: CodeType, tests: Sequence[str]) -> str:
    limits = _limits(module, tests)
    exit_code = run(place, lambda: _test(module, code, limits), sum(limits.values()))
    if exit_code == TIMEOUT:
        return "timeout"
    return "survived" if exit_code == pytest.ExitCode.OK else "killed"


def _limits(module: Module, tests: Sequence[str]) -> dict[str, float]:
    return {test: max(_LEAST, _PATIENCE * module.profile.seconds[test]) for test in tests}


def _measure(tests: Sequence[str], sources: Sequence[Path], result: Path) -> int:
    measured = coverage.Coverage(data_file=None, config_file=False, include=[str(path) for path in sources])
    recorder = _Recorder(measured)
    measured.start()
    code = _pytest(tests, {}, recorder)
    measured.stop()
    profile, data = recorder.profile, measured.get_data()
    profile.lines = {path: data.contexts_by_lineno(path) for path in data.measured_files()}
    profile.modules = list(sys.modules)
    result.write_text(json.dumps(asdict(profile)), encoding="utf-8")
    return code


def _import_others(module: Module) -> None:
    """Import all that the tests import, but the module and what imports it."""
    sys.meta_path.insert(0, sitecustomize.Substitute(module.name, str(module.path), None))
    for name in module.profile.modules:
        if name not in sys.modules and ".test_" not in name and not name.endswith("conftest"):
            try:
                importlib.import_module(name)
            except Exception:  # noqa: BLE001 - the test that needs it says why
                continue
    del sys.meta_path[0]
    gc.freeze()


def _test(module: Module, code: CodeType, limits: dict[str, float], recorded: Path | None = None) -> int:
    sys.meta_path.insert(0, sitecustomize.Substitute(module.name, str(module.path), code))
    descriptor = os.memfd_create("mutant")
    os.write(descriptor, marshal.dumps(code))
    os.environ["AGENT_MUTANT"] = f"{module.name}:{module.path}:/proc/{os.getpid()}/fd/{descriptor}"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_SITE, os.environ.get("PYTHONPATH"))))
    files = list(dict.fromkeys(map(_file, limits)))
    if recorded is None:
        return _pytest(files, limits, None, "-x")
    recorder = _Recorder()
    exit_code = _pytest(files, limits, recorder)
    recorded.write_text(json.dumps(recorder.profile.failed), encoding="utf-8")
    return exit_code


def _pytest(files: Sequence[str], limits: dict[str, float], recorder: _Recorder | None, *options: str) -> int:
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    base = f"--basetemp={os.environ['TMPDIR']}/p"
    plugins = [_Selection(limits), *([recorder] if recorder else [])]
    return pytest.main([*_OPTIONS, base, *options, *files], plugins=plugins)


def _file(test: str) -> str:
    return test.partition("::")[0]
