"""A cluster of two nodes in a network namespace: started part by part, each when the one before is ready."""

import http.client
import json
import shutil
import ssl
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.cluster import programs
from tests.cluster.binaries import Binaries
from tests.cluster.credentials import API_SERVICE, MASTERS, NODE_ADDRESS, Credentials, User
from tests.cluster.enclosure import Enclosure, open_cgroups, open_enclosure
from tests.cluster.images import Image
from tests.system.eventually import PATIENCE, eventually
from tests.system.namespaces import own_network

Json = dict[str, Any]
HEALTH = {"kube-controller-manager": 10257, "kube-scheduler": 10259}
NODES = (1, 2)
ENDED = 320.0  # seconds


@dataclass
class Cluster:
    """A running cluster, with its client for the tests."""

    directory: Path
    binaries: Binaries
    enclosure: Enclosure
    keys: Credentials
    nodes: Sequence[programs.Node]

    def kubectl(self, *words: str | Path, given: str | None = None, within: float = PATIENCE) -> str:
        """Run kubectl as the administrator and return what it prints; AssertionError if it fails."""
        command = [self.binaries.path("kubectl"), f"--kubeconfig={self.keys.path('admin.kubeconfig')}", *words]
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=within,
            env={"HOME": str(self.directory), "PATH": self.binaries.search_path()},
        )
        assert done.returncode == 0, f"kubectl {words}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def get(self, *words: str) -> Json:
        """Return objects as kubectl sees them."""
        answer: Json = json.loads(self.kubectl("get", *words, "--output=json"))
        return answer

    def apply(self, *objects: Json) -> None:
        """Create or change objects."""
        self.kubectl("apply", "--filename=-", given="".join(f"---\n{json.dumps(each)}\n" for each in objects))

    def delete_namespaces(self, *names: str) -> None:
        """Delete namespaces, by default all that are not the cluster's own, and wait until their pods have ended."""
        there = [each["metadata"]["name"] for each in self.get("namespaces")["items"]]
        if chosen := names or [name for name in there if name != "default" and not name.startswith("kube-")]:
            self.kubectl("delete", "namespace", *chosen, "--timeout=300s", within=ENDED)

    def connection(self) -> http.client.HTTPSConnection:
        """Return a connection to the API server, for a client that watches."""
        return http.client.HTTPSConnection(API_SERVICE, timeout=PATIENCE, context=self.trust())

    def headers(self) -> dict[str, str]:
        """Return the header by which the API server knows the administrator."""
        return {"Authorization": f"Bearer {self.keys.users['admin'].token}"}

    def trust(self) -> ssl.SSLContext:
        """Return a context that verifies the cluster's servers."""
        return ssl.create_default_context(cafile=self.keys.path("ca.crt"))

    def add_images(self, *images: Image) -> None:
        """Import images into each node's containerd."""
        for number, image in enumerate(images):
            archive = image.archive(self.directory / f"{number}.tar")
            for node in self.nodes:
                self.ask(*node.ctr("images", "import", "--snapshotter=overlayfs", archive), within=500)
            archive.unlink()

    def ask(self, *words: str | Path, within: float = PATIENCE) -> str:
        """Run a program among the cluster's and return what it prints."""
        return self.enclosure.ask(words, self._environment(), within)

    def start(self, name: str, command: Sequence[str | Path], ready: Callable[[], object]) -> None:
        """Start a part and wait until it is ready; it must not exit before."""
        process = self.enclosure.run(command, self._environment(), name)

        def asked() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{name} exited with {process.returncode}: {self.log(name)}")
            return bool(ready())

        eventually(asked, what=f"{name} is ready", every=0.1)

    def log(self, name: str) -> str:
        """Return the end of a part's log."""
        path = self.enclosure.logs / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace")[-4000:] if path.exists() else ""

    def diagnosis(self) -> list[tuple[str, str]]:
        """Return what is shown beside a failure: headings and texts."""
        asked = (("get", "pods", "--output=wide"), ("get", "events", "--sort-by=.lastTimestamp"))
        texts = [(" ".join(words), self.kubectl(*words, "--all-namespaces")[-6000:]) for words in asked]
        return texts + [(f"log of kubelet-{node.number}", self.log(f"kubelet-{node.number}")) for node in self.nodes]

    def file(self, path: Path) -> Path:
        """Return the path at which this process sees a file of the cluster."""
        return self.enclosure.outside(path)

    def _environment(self) -> dict[str, str]:
        return {"PATH": self.binaries.search_path(), "HOME": str(self.enclosure.directory)}


@contextmanager
def open_cluster(binaries: Binaries, pause: Image, *images: Image) -> Iterator[Cluster]:
    """Start a cluster that has these images; end everything of it at the end."""
    directory = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))
    try:
        with (
            own_network(),
            open_cgroups(f"agent-{directory.name}", [f"node-{number}" for number in NODES]) as cgroup,
            open_enclosure(directory / "state", directory / "logs") as enclosure,
        ):
            _add_addresses()
            keys = Credentials(directory / "keys")
            nodes = [programs.Node(number, enclosure.directory, cgroup, binaries) for number in NODES]
            cluster = Cluster(directory, binaries, enclosure, keys, nodes)
            _start_control_plane(cluster)
            for node in nodes:
                _start_containerd(cluster, node)
            cluster.add_images(pause, *images)
            for node in nodes:
                _start_kubelet(cluster, node)
            eventually(lambda: _all_ready(cluster), what="the nodes are ready", every=0.5)
            yield cluster
    finally:
        shutil.rmtree(directory)


def _add_addresses() -> None:
    """Give the network namespace the addresses of the machine and of the API server's service."""
    for address in (NODE_ADDRESS, API_SERVICE):
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True, timeout=PATIENCE)


def _start_control_plane(cluster: Cluster) -> None:
    keys, binaries = cluster.keys, cluster.binaries
    keys.add(User("admin", MASTERS))
    manager = keys.add(User("system:kube-controller-manager"))
    schedules = keys.add(User("system:kube-scheduler"))
    for node in cluster.nodes:
        keys.add(User(f"system:node:{node.name}", "system:nodes"))
    state = cluster.enclosure.directory
    cluster.start("etcd", programs.etcd(binaries, state), lambda: _healthy(f"{programs.ETCD}/health"))
    cluster.start(
        "kube-apiserver", programs.api_server(binaries, keys), lambda: "ok" in cluster.kubectl("get", "--raw=/readyz")
    )
    commands = (
        programs.controller_manager(binaries, keys, manager),
        programs.scheduler(binaries, keys, schedules),
    )
    for command, (name, port) in zip(commands, HEALTH.items(), strict=True):
        cluster.start(name, command, partial(_healthy, f"https://127.0.0.1:{port}/healthz", cluster.trust()))


def _start_containerd(cluster: Cluster, node: programs.Node) -> None:
    for name, content in node.files(cluster.keys).items():
        path = cluster.file(node.directory / name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    cluster.file(node.socket.parent).mkdir()
    cluster.start(f"containerd-{node.number}", node.containerd(), lambda: cluster.ask(*node.ctr("version")))


def _start_kubelet(cluster: Cluster, node: programs.Node) -> None:
    command = node.kubelet(Path(cluster.keys.path(f"system-node-{node.name}.kubeconfig")))
    page = f"http://127.0.0.1:{node.health_port}/healthz"
    cluster.start(f"kubelet-{node.number}", command, lambda: _healthy(page))


def _healthy(page: str, trust: ssl.SSLContext | None = None) -> bool:
    with urllib.request.urlopen(page, timeout=PATIENCE, context=trust) as answer:  # an HTTPError is an OSError
        return bool(answer.status == http.HTTPStatus.OK)


def _all_ready(cluster: Cluster) -> bool:
    ready = [
        condition["status"] == "True"
        for node in cluster.get("nodes")["items"]
        for condition in node["status"]["conditions"]
        if condition["type"] == "Ready"
    ]
    return len(ready) == len(cluster.nodes) and all(ready)
