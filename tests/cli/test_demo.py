import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest

from agent.cli.demo import demo
from agent.core.errors import UsageError
from agent.demo import run as module
from agent.demo import views
from agent.demo.settings import Settings
from tests.cli.runner import run


@dataclass
class Demonstrations:
    """In place of the demonstration: it ends as it is told to."""

    ending: bool | BaseException = True
    begun: list[tuple[Settings, object]] = field(default_factory=list)

    def __call__(self, settings: Settings, view: object) -> "Demonstrations":
        self.begun.append((settings, view))
        return self

    async def run(self) -> bool:
        if isinstance(self.ending, BaseException):
            raise self.ending
        return self.ending


@pytest.fixture
def demonstrations(monkeypatch: pytest.MonkeyPatch) -> Demonstrations:
    made = Demonstrations()
    monkeypatch.setattr(module, "Run", made)
    monkeypatch.setattr(views, "view", lambda: "a view")
    return made


@pytest.mark.parametrize(("ending", "code"), [(True, 0), (False, 1)])
def test_what_was_proved_is_the_exit_code(ending: bool, code: int, demonstrations: Demonstrations) -> None:
    demonstrations.ending = ending
    assert run(demo, "--proxy-bin", "/bin/true").code == code


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (("--proxy-bin", "/bin/true"), Settings("/bin/true", 2.0, 30.0)),
        (("--proxy-bin", "true", "--every", "500ms", "--for", "1h"), Settings("true", 0.5, 3600.0)),
    ],
)
def test_the_options_are_its_settings(
    arguments: tuple[str, ...], settings: Settings, demonstrations: Demonstrations
) -> None:
    run(demo, *arguments)
    assert demonstrations.begun == [(settings, "a view")]


def test_the_builtin_proxy_is_the_default(demonstrations: Demonstrations) -> None:
    run(demo)
    ((settings, _),) = demonstrations.begun
    assert settings.proxy == "sidecar"


def test_a_relative_path_is_made_absolute(
    demonstrations: Demonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("proxy").touch(0o755)
    run(demo, "--proxy-bin", "./proxy")
    ((settings, _),) = demonstrations.begun
    assert settings.proxy == str(tmp_path / "proxy")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--proxy-bin", "/none"), UsageError),
        (("--proxy-bin", "no-such-proxy"), UsageError),
        (("--every", "0s"), click.UsageError),
        (("--every", "2"), click.UsageError),
        (("--for", "soon"), click.UsageError),
    ],
)
def test_wrong_usage_begins_nothing(
    arguments: tuple[str, ...], error: type[Exception], demonstrations: Demonstrations
) -> None:
    with pytest.raises(error):
        run(demo, *arguments)
    assert demonstrations.begun == []


def test_a_demonstration_that_is_cancelled_is_an_abort(demonstrations: Demonstrations) -> None:
    demonstrations.ending = asyncio.CancelledError()
    with pytest.raises(click.Abort):
        run(demo, "--proxy-bin", "/bin/true")
