"""`agent check` tells what a start would find, with the proxy's own word, and leaves nothing behind."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import MachineError, UsageError
from agent.handoff.segment import HotRestartVersion, Segment
from agent.host.processes import Command, User
from agent.host.run_directory import RunDirectory
from agent.inputs import programs
from agent.inputs.settings import Settings
from agent.processes.configuration_check import inspect, small_bootstrap
from agent.processes.reserved_segments import ReservedSegments
from tests import pki
from tests.handoff.epochs import leaked_since, open_descriptors
from tests.processes.fakes import KIND, Kernel

pytestmark = pytest.mark.usefixtures("ends_with_the_command")
AUTHORITY = pki.Authority.create("ca")
LEAF = AUTHORITY.issue(["a.test", "b.test"], serial=0xABC)


@pytest.fixture
def ends_with_the_command(no_descriptor_leaks: None) -> Iterator[None]:
    """Close the revision and the program, which are the command's until it exits."""
    before = open_descriptors()
    yield
    leaked_since(before)


@pytest.fixture
def proxy(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A proxy that tells its versions; what it says of a configuration is in `results`."""

    async def probe(command: Command, _: float) -> tuple[int, str]:
        return 0, "11.104" if command.arguments[-1] == "--hot-restart-version" else "version: a/1.40.0/Clean"

    monkeypatch.setattr(programs, "run", probe)
    return kernel


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings for a directory with a good pair, and a run directory that does not exist yet."""
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs/tls.crt").write_bytes(LEAF.chain_pem)
    (tmp_path / "certs/tls.key").write_bytes(LEAF.key_pem)

    def make(**changes: Any) -> Settings:  # noqa: ANN401
        chosen: dict[str, Any] = {
            "proxy": "/bin/true",
            "kind": KIND,
            "certificates": (tmp_path / "certs",),
            "config": None,
            "watched": (),
            "run_directory": tmp_path / "run",
            "listen": "tcp://127.0.0.1:1",
            "forward": "tcp://127.0.0.1:2",
            "settle_timeout": 0.0,
            "alarm_timeout": 0.0,
        }
        return Settings(**chosen | changes)

    return make


MakeSettings = Callable[..., Settings]


async def test_good_files_are_told_with_what_is_in_them(proxy: Kernel, settings: MakeSettings) -> None:
    report = await inspect(settings())
    assert report.good
    certificate, verdict = report.lines
    for word in ("tls.crt", "DNS:a.test, DNS:b.test", "serial 0abc", "until 2049-01-01 00:00Z"):
        assert word in certificate
    assert "accepts" in verdict


async def test_the_proxy_is_asked_with_the_copy_that_it_would_run_from(proxy: Kernel, settings: MakeSettings) -> None:
    await inspect(settings())
    [(command, timeout)] = proxy.ran
    arguments = list(command.arguments)
    assert arguments[:2] == ["/bin/true", "-c"]
    assert arguments[-2:] == ["--mode", "validate"]
    assert timeout == 30.0
    assert int(arguments[2].removeprefix("/dev/fd/")) in command.descriptors
    assert len(command.descriptors) == 4, "the configuration, the certificate, its key, the manifest"
    assert proxy.started == []


async def test_what_the_proxy_refuses_is_not_good(proxy: Kernel, settings: MakeSettings) -> None:
    proxy.results = [(1, "key size 512 is too small")]
    report = await inspect(settings())
    assert not report.good
    assert len(report.lines) == 2
    assert "/bin/true" in report.lines[1]
    assert "key size 512 is too small" in report.lines[1]


async def test_a_file_that_the_agent_refuses_is_not_good_though_the_proxy_accepts_the_rest(
    proxy: Kernel, settings: MakeSettings, tmp_path: Path
) -> None:
    (tmp_path / "certs/other").mkdir()
    chosen = settings(certificates=(tmp_path / "certs", tmp_path / "certs/other"))
    (tmp_path / "certs/other/tls.crt").write_bytes(AUTHORITY.issue(["c.test"]).chain_pem)
    (tmp_path / "certs/other/tls.key").write_bytes(AUTHORITY.issue(["d.test"]).key_pem)
    report = await inspect(chosen)
    assert "accepts" in report.lines[-1]
    assert not report.good


async def test_without_a_certificate_nothing_can_be_started(
    proxy: Kernel, settings: MakeSettings, tmp_path: Path
) -> None:
    (tmp_path / "certs/tls.key").unlink()
    report = await inspect(settings())
    assert not report.good
    [line] = report.lines
    assert str(tmp_path / "certs") in line
    assert proxy.ran == []
    assert not (tmp_path / "run").exists()


async def test_a_configuration_names_the_files_that_are_checked(
    proxy: Kernel, settings: MakeSettings, tmp_path: Path
) -> None:
    context = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(tmp_path / "certs/tls.crt")},
                    "private_key": {"filename": str(tmp_path / "certs/tls.key")},
                }
            ]
        },
    }
    listener = {"filter_chains": [{"transport_socket": {"name": "tls", "typed_config": context}}]}
    config = tmp_path / "envoy.yaml"
    config.write_text(json.dumps({"static_resources": {"listeners": [listener]}}))
    report = await inspect(settings(config=config))
    assert report.good
    assert "serial 0abc" in report.lines[0]
    config.write_text("listeners: [")
    report = await inspect(settings(config=config))
    assert not report.good
    assert str(config) in report.lines[0]


async def test_strays_are_reported_to_the_log(
    proxy: Kernel, settings: MakeSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "envoy.yaml"
    config.write_text("{}")
    await inspect(settings(config=config))
    assert str(tmp_path / "certs/tls.crt") in caplog.text


def own_threads() -> set[threading.Thread]:
    """The threads that run, without those of the loop."""
    return {each for each in threading.enumerate() if not each.name.startswith("asyncio_")}


async def test_nothing_is_left_behind(
    proxy: Kernel, settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[Segment] = []
    claim = ReservedSegments.claim

    def noted(segments: ReservedSegments, version: HotRestartVersion) -> Segment:
        claimed.append(claim(segments, version))
        return claimed[-1]

    monkeypatch.setattr(ReservedSegments, "claim", noted)
    threads = own_threads()
    proxy.results = [MachineError("cannot wait for /bin/true")]
    with pytest.raises(MachineError):
        await inspect(settings())
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"lock"}
    assert [each.path.exists() for each in claimed] == [False]
    assert own_threads() <= threads
    RunDirectory(tmp_path / "run").close()  # it is not locked any more


@pytest.mark.parametrize(("user", "mode"), [(None, 0o700), ("self", 0o711)])
async def test_another_user_may_enter_the_run_directory(
    proxy: Kernel, settings: MakeSettings, tmp_path: Path, user: str | None, mode: int
) -> None:
    own = tmp_path.stat()
    await inspect(settings(user=None if user is None else User(own.st_uid, own.st_gid)))
    assert (tmp_path / "run").stat().st_mode & 0o777 == mode


async def test_a_program_that_does_not_exist_is_a_usage_error(settings: MakeSettings, tmp_path: Path) -> None:
    for check in (inspect, small_bootstrap):
        with pytest.raises(UsageError, match=str(tmp_path / "gone")):
            await check(settings(proxy=str(tmp_path / "gone")))


async def test_the_generated_configuration_serves_the_pair_at_the_chosen_address(
    settings: MakeSettings, tmp_path: Path
) -> None:
    text = await small_bootstrap(settings(listen="tcp://127.0.0.1:15443", forward="tcp://127.0.0.9:8081"))
    for word in (str(tmp_path / "certs/tls.crt"), str(tmp_path / "certs/tls.key"), "15443", "127.0.0.9", "8081"):
        assert word in text
