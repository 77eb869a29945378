"""`agent inject` and `agent uninject`: files in, files or standard output out."""

from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from agent.cli.inject import inject, uninject
from agent.core.errors import MachineError, UsageError
from tests.cli.agents import Ran
from tests.cli.runner import run
from tests.injection.vectors import CRON_JOB, DEPLOYMENT, POD

BROKEN = "kind: Pod\n  spec: [secret\n"


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Return the file of a deployment."""
    path = tmp_path / "app.yaml"
    path.write_text(DEPLOYMENT, encoding="utf-8")
    return path


def injected(*arguments: object) -> Ran:
    return run(inject, *arguments)


def test_standard_output_is_yaml_and_nothing_else(app: Path) -> None:
    ran = injected("-f", app)
    assert (ran.code, app.read_text(encoding="utf-8")) == (0, DEPLOYMENT)
    (deployment,) = yaml.safe_load_all(ran.out)
    assert [each["name"] for each in deployment["spec"]["template"]["spec"]["initContainers"]] == [
        "istio-init", "istio-proxy",
    ]  # fmt: skip
    assert "app.yaml, document 1: Deployment shop/web: istio-init needs iptables" in ran.err


def test_a_removal_prints_the_original(app: Path) -> None:
    app.write_text(injected("-f", app, "--native", "off").out, encoding="utf-8")
    assert run(uninject, "-f", app).out == DEPLOYMENT


def test_files_are_one_stream(tmp_path: Path, app: Path) -> None:
    (tmp_path / "cron.yml").write_text(CRON_JOB.rstrip(), encoding="utf-8")
    (tmp_path / "pod.json").write_text('{"kind": "Pod"}', encoding="utf-8")
    (tmp_path / "notes.txt").write_text(BROKEN, encoding="utf-8")
    kinds = [each["kind"] for each in yaml.safe_load_all(injected("-f", tmp_path).out)]
    assert kinds == ["Deployment", "CronJob", "Pod"]


def test_standard_input() -> None:
    result = CliRunner().invoke(inject, ["-f", "-", "--init-image", "init:1"], input=POD, standalone_mode=False)
    assert (result.exit_code, result.output.count("init:1")) == (0, 1)
    result = CliRunner().invoke(inject, ["-f", "-"], input="{{ x }}\na: b\n", standalone_mode=False)
    assert "cannot read standard input, document 1, line 2: " in (result.output or result.stderr)
    assert "render the template first" in (result.output or result.stderr)


def test_in_place_files_are_replaced_and_keep_their_mode(app: Path) -> None:
    app.chmod(0o640)
    link = app.with_name("link.yaml")
    link.symlink_to(app)
    ran = injected("-i", "-f", link, "--init-image", "init:1")
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert (link.is_symlink(), app.stat().st_mode & 0o777) == (True, 0o640)
    before = app.stat()
    assert injected("-i", "-f", app, "--init-image", "init:1").code == 0
    assert app.stat() == before, "a file that does not change is not written"
    run(uninject, "-i", "-f", app)
    assert app.read_text(encoding="utf-8") == DEPLOYMENT
    assert sorted(each.name for each in app.parent.iterdir()) == ["app.yaml", "link.yaml"]


def test_if_a_file_is_refused_none_is_written(tmp_path: Path, app: Path) -> None:
    (tmp_path / "broken.yaml").write_text("a: 1\n---\n" + BROKEN, encoding="utf-8")
    (tmp_path / "refused.yaml").write_text(POD + "    securityContext: {runAsUser: 1337}\n", encoding="utf-8")
    ran = injected("-i", "-f", tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert f"agent: cannot read {tmp_path}/broken.yaml, document 2, line 4: " in ran.err
    assert "agent: cannot change Pod p: spec.containers.0.securityContext.runAsUser is 1337" in ran.err
    assert ran.err.endswith("agent: nothing is written\n")
    assert "secret" not in ran.err
    assert app.read_text(encoding="utf-8") == DEPLOYMENT


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing, binary = tmp_path / "missing.yaml", tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe")
    ran = injected("-f", missing, "-f", binary)
    assert f"cannot read {missing}: No such file or directory" in ran.err
    assert f"cannot read {binary}: it is not UTF-8" in ran.err


def test_what_cannot_be_written_is_named(app: Path) -> None:
    app.with_name("a-pod.yaml").write_text(POD, encoding="utf-8")
    app.with_name(".app.yaml.injected").mkdir()
    with pytest.raises(MachineError, match=r"cannot write .*app\.yaml\.injected: Is a directory"):
        injected("-i", "-f", app.parent)
    assert app.read_text(encoding="utf-8") == DEPLOYMENT
    assert app.with_name("a-pod.yaml").read_text(encoding="utf-8") == POD
    assert not app.with_name(".a-pod.yaml.injected").exists()


def test_copied_objects_are_named_on_request(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("kind: Rollout\nmetadata: {name: r}\n", encoding="utf-8")
    assert injected("-f", path).err == ""
    assert injected("-v", "-f", path).err == f"{path}, document 1: Rollout r has no pod template, and is copied\n"


def test_a_namespace_for_objects_that_name_none(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(POD, encoding="utf-8")
    ran = injected("-f", path, "-n", "kube-system")
    assert (ran.out, "the cluster's own" in ran.err) == (POD, True)


def test_standard_input_is_not_written_in_place() -> None:
    with pytest.raises(click.UsageError, match="cannot write in place: - is standard input"):
        injected("-i", "-f", "-")


def test_options_are_checked_before_files_are_read() -> None:
    with pytest.raises(UsageError, match="cannot use --exclude-outbound-ports 80:90"):
        injected("-f", "/missing", "--exclude-outbound-ports", "80:90")
