"""The container images: built by podman from their Containerfile, and used without rights on a read-only root."""

import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from tests.examples.manifests import FROM_FILES, RENDERED
from tests.examples.test_kubernetes import bootstrap as envoy_bootstrap
from tests.system.agent_fixture import HOST
from tests.system.bare import healthy, serial_served
from tests.system.certificates import Mint, serial
from tests.system.conftest import INSTANCES, QUIETLY, WORKERS
from tests.system.containers import LIMITS, ContainedInstance, Container
from tests.system.counts import count
from tests.system.eventually import PATIENCE, eventually
from tests.system.layouts import KUBERNETES, mounted
from tests.system.loads import Loads, nothing_failed
from tests.system.proxies import Console
from tests.system.room import Room
from tests.system.test_container import NOBODY, rotates_and_answers_a_crash
from tests.system.wire import Target, connect, exchange, tls_context

pytestmark = [pytest.mark.root, pytest.mark.long]

ROOT = Path(__file__).parents[2]
PROXIES = {"agent": "sidecar", "envoy": "envoy"}
TITLES = {"agent": "proxy-agent", "envoy": "proxy-agent-envoy"}
ROTATIONS = count("AGENT_ROTATIONS", short=3, long=30)
PACKAGES = "python3-venv,ca-certificates,tzdata"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"  # of this machine: pip may have to use a proxy with one of its own
UNWANTED = re.compile(r"(^|/)(sh|bash|dash|busybox|apt|dpkg|pip\d*|perl|gcc|ld|su|mount)$")


@dataclass(frozen=True)
class Images:
    """A store of podman with the base image and the built ones."""

    directory: Path

    def words(self) -> list[str]:
        """Return the beginning of every command."""
        places = [f"--{word}={self.directory / word}" for word in ("root", "runroot", "tmpdir")]
        kinds = ["--runtime=runc", "--storage-driver=overlay", "--cgroup-manager=cgroupfs", "--events-backend=none"]
        return ["podman", *kinds, *places]

    def podman(self, *arguments: str | Path, within: float = PATIENCE, code: int = 0) -> str:
        """Run a command and return what it prints; AssertionError if it does not exit with this code."""
        done = subprocess.run(
            [*self.words(), *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=within
        )
        assert done.returncode == code, f"{done.returncode}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout + done.stderr

    def build(self, target: str) -> None:
        """Build one of the images."""
        trust = ["--volume", f"{AUTHORITIES}:{AUTHORITIES}:ro"] if Path(AUTHORITIES).exists() else []
        options = ["--isolation=chroot", "--network=host", *LIMITS[:4], *trust, "--build-arg=BASE=localhost/python"]
        source = ["--file=examples/container/Containerfile", f"--target={target}", f"--tag={target}", "."]
        self.podman("build", *options, *source, within=1800)

    def run(self, target: str, *arguments: str, options: Sequence[str] = (), code: int = 0) -> str:
        """Run a container with no right and a read-only root until it exits."""
        bounds = ["--network=host", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", *LIMITS]
        return self.podman("run", "--rm", *bounds, *options, target, *arguments, code=code)

    def details(self, target: str) -> dict[str, Any]:
        """Return what podman knows of an image."""
        (found,) = json.loads(self.podman("image", "inspect", target))
        return found  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    """Both images. `AGENT_IMAGE_BASE` names the archive of a root file system to use as the base."""
    for program in ("podman", "runc", "mmdebstrap"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} here")
    store = Images(tmp_path_factory.mktemp("images"))
    base = os.environ.get("AGENT_IMAGE_BASE") or _base(store.directory / "base.tar")
    try:
        store.podman("import", "--quiet", base, "localhost/python", within=600)
        for target in PROXIES:
            store.build(target)
        yield store
    finally:
        store.podman("system", "reset", "--force", within=600)


def _base(archive: Path) -> str:
    """Make a Debian with Python, as the Containerfile says."""
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "trixie", str(archive)]
    subprocess.run(command, check=True, capture_output=True, timeout=1800)
    return str(archive)


@dataclass
class ImageContainer(Container):
    """A container of a built image, with the directory of its agent fixture as its only mount."""

    image: str = ""
    store: Images = field(default_factory=lambda: Images(Path()))

    def mounts(self) -> list[tuple[str, Path]]:
        """List the mount."""
        return [("rw", self.writable)]

    def _podman(self, argv: Sequence[str]) -> list[str]:
        options = ["--rm", "--name", self.name, "--network=host", "--read-only", "--read-only-tmpfs=false"]
        bounds = ["--cap-drop=all", "--security-opt=no-new-privileges", *LIMITS]
        volume = ["--volume", f"{self.writable}:{self.writable}"]
        return [*self._podman_itself(), "run", *options, *bounds, *volume, self.image, *argv]

    def _podman_itself(self) -> list[str]:
        return self.store.words()


@dataclass
class ImageInstance(ContainedInstance):
    """An agent fixture whose agent is the entry point of an image."""

    image: str = ""
    store: Images = field(default_factory=lambda: Images(Path()))

    def __post_init__(self) -> None:
        super().__post_init__()
        shutil.rmtree(self.container.rootfs)
        self.container = ImageContainer(
            "podman", self.room, self.directory, self.uid, image=self.image, store=self.store
        )


@pytest.fixture(params=PROXIES)
def target(request: pytest.FixtureRequest) -> str:
    """The name of an image's stage."""
    name: str = request.param
    return name


@pytest.fixture
def image_instance(images: Images, target: str, room: Room, request: pytest.FixtureRequest) -> Iterator[ImageInstance]:
    """An agent fixture in a container; it is stopped, and must exit with 0, at the end."""
    name = PROXIES[target]
    arguments = [*QUIETLY, *WORKERS[name]]
    instance = ImageInstance(
        room, "b", Path(name), program=(), proxy_args=arguments, kind="podman", uid=NOBODY, image=target, store=images
    )
    request.node.stash[INSTANCES] = [instance]
    yield instance
    instance.stop()


def test_an_image_says_what_it_is(images: Images, target: str) -> None:
    details = images.details(target)
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in details["Labels"].items()}
    assert labels["title"] == TITLES[target]
    assert labels["version"] == __version__
    assert labels["licenses"] == "Apache-2.0"
    assert labels.keys() >= {"description", "revision"}
    configuration = details["Config"]
    assert configuration["User"] == f"{NOBODY}:{NOBODY}"
    assert configuration["Entrypoint"] == ["agent"], "no shell between the agent and its signals"
    assert configuration["StopSignal"] in {"SIGTERM", "15"}
    assert __version__ in images.run(target, "version")
    for name in ("pilot-agent", "/usr/local/bin/pilot-agent"):
        assert images.run(target, "version", options=[f"--entrypoint={name}"]) == f"client version: {__version__}\n"


def test_the_readme_has_the_size(images: Images, target: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (told,) = re.findall(rf"`{TITLES[target]}` \((\d+) MB", text)
    assert images.details(target)["Size"] / 1e6 == pytest.approx(int(told), rel=0.1)


def test_there_is_no_shell_and_no_package_manager(images: Images, target: str, tmp_path: Path) -> None:
    archive = tmp_path / "files.tar"
    container = images.podman("create", target).strip()
    images.podman("export", "--output", archive, container)
    images.podman("rm", container)
    with tarfile.open(archive) as files:
        members = files.getmembers()
    assert len(members) > 1000
    assert [member.name for member in members if UNWANTED.search(member.name)] == []
    assert [member.name for member in members if member.mode & 0o6000 and member.isfile()] == [], "set-user-ID"
    owned = [member.name for member in members if member.uid == NOBODY]
    assert owned == [], "the user can change nothing"
    images.run(target, options=["--entrypoint=/bin/sh"], code=127)


def test_time_zones_and_authorities_are_there(images: Images, target: str) -> None:
    images.run(target, "-c", "import zoneinfo; zoneinfo.ZoneInfo('Europe/Berlin')", options=["--entrypoint=python"])
    script = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
    assert int(images.run(target, "-c", script, options=["--entrypoint=python"])) > 50


def test_rotations_under_load_fail_no_request(image_instance: ImageInstance, loads: Loads) -> None:
    instance = image_instance
    instance.start()
    rotates_and_answers_a_crash(instance, loads, ROTATIONS)


def test_sigterm_lets_connections_end(image_instance: ImageInstance) -> None:
    instance = image_instance
    instance.more_flags += ["--stop-deadline", "10m"]
    instance.start()
    with connect(instance.plain, tls_context()) as held:
        exchange(held, last=False)
        instance.container.terminate()
        eventually(lambda: not healthy(instance.status), what="it is not ready any more")
        exchange(held, last=False)
    assert instance.exited() == 0


POD = {"base": FROM_FILES["base"], "chart": RENDERED["chart"]}


@pytest.mark.parametrize("name", POD)
@pytest.mark.parametrize("target", ["envoy"])
def test_the_pod_of_an_example_does_its_work(
    images: Images, room: Room, loads: Loads, mint: Mint, target: str, name: str
) -> None:
    """Run the container as the kubelet does: its command line, probes and mounts, which change as those of a pod."""
    example = POD[name]()
    container, bootstrap = example.agent(), envoy_bootstrap(example)
    config, certs = room.directory / "config", room.directory / "certs"
    mounted(config, {"envoy.yaml": bootstrap.encode()})
    KUBERNETES.first(certs, mint.leaf())
    sources = {"config": config, "certs": certs, "certificate-0": certs}
    volumes = [
        f"--volume={sources[mount['name']]}:{mount['mountPath']}:ro"
        for mount in container["volumeMounts"]
        if mount["name"] in sources
    ]
    (run,) = (mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "run")
    variables = [f"--env={each['name']}={each['value']}" for each in container["env"]]
    bounds = ["--network=host", "--read-only", "--read-only-tmpfs=false", "--cap-drop=all", *LIMITS]
    options = ["--rm", "--name=pod", *bounds, *volumes, *variables, f"--tmpfs={run}:mode=1777,size=16m"]
    process = room.spawn_bare(
        [*images.words(), "run", *options, target, *container["args"]], log=room.directory / "log"
    )
    (status,) = (port["containerPort"] for port in container["ports"] if port["name"] == "status")
    console, tls = Console(status), Target(HOST, 8443, tls=True)

    def epoch() -> int:
        number: int = json.loads(console.ask("/status").text)["epoch"]
        return number

    eventually(lambda: ready(console, container), what="the pod is ready", every=0.2)
    images.podman("exec", "pod", *container["startupProbe"]["exec"]["command"])
    assert console.ask(container["livenessProbe"]["httpGet"]["path"]).status == 200
    assert serial_served(tls) == serial(mint.newest)

    before = epoch()
    assert "route: {cluster: app}" in bootstrap
    changed = bootstrap.replace("route: {cluster: app}", "direct_response: {status: 200}")
    mounted(config, {"envoy.yaml": changed.encode()})
    eventually(lambda: epoch() > before, what="the changed ConfigMap serves")

    loads.start("closed", tls, clients=2, pace=0.01)
    for _ in range(ROTATIONS):
        KUBERNETES.again(certs, mint.leaf())
        eventually(lambda: serial_served(tls) == serial(mint.newest), what="the renewed secret serves")
    nothing_failed(loads.finish(at_least=20))
    images.podman("kill", "--signal=TERM", "pod")
    assert process.wait(timeout=PATIENCE) == 0


def ready(console: Console, container: dict[str, Any]) -> bool:
    """Return whether the readiness probe succeeds."""
    try:
        return console.ask(container["readinessProbe"]["httpGet"]["path"]).status == 200
    except OSError:
        return False


@pytest.fixture
def mint() -> Mint:
    """An issuer of certificates."""
    return Mint()


def test_the_exit_code_is_that_of_the_agent(image_instance: ImageInstance) -> None:
    instance = image_instance
    instance.more_flags += ["--no-wait"]
    instance.prepare()
    (instance.certs / "tls.crt").write_bytes(b"garbage")
    instance.launch()
    assert instance.exited() == 78
