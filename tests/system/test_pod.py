"""Pods that were written for Istio's pilot-agent, with the agent in its place, and one that `agent inject` has made.

A pod is what a kubelet makes of its specification: a network namespace, files under /etc/certs and /etc/istio/pod,
environment and arguments. The control plane speaks xDS over mTLS.
"""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.injection import planning
from agent.injection.draft import applied
from agent.injection.edits import JsonValue
from agent.injection.options import Certificates, InjectionOptions
from tests.system.bare import body_of
from tests.system.certificates import Mint, authority, serial
from tests.system.counts import count
from tests.system.eventually import eventually
from tests.system.layouts import mounted
from tests.system.loads import Loads, nothing_failed
from tests.system.plane.plane import ControlPlane, control_plane
from tests.system.plane.sources import plain_listener
from tests.system.proxies import needed
from tests.system.room import Process, Room
from tests.system.wire import Target

pytestmark = pytest.mark.envoy

HERE = Path(__file__).parents[2]
ROTATIONS = count("AGENT_POD_ROTATIONS", short=1, long=5)
LISTENER = 10_080
APPLICATION = 8080
_LAUNCHER = """\
#!{python}
import sys
sys.path.insert(0, {here!r})
from agent.entry import main
main()
"""
_APPLICATION = """\
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path in ("/", "/health") else 404)
        self.send_header("content-length", "8")
        self.end_headers()
        self.wfile.write(b"healthy\\n")
HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""
_LABELS = 'app="web"\npod-template-hash="7c9d"\ntopology.istio.io/locality="eu-west/eu-west-1a/rack-4"\n'
_ANNOTATIONS = 'sidecar.istio.io/statsInclusionPrefixes="http.plain"\nnote="a \\"quoted\\" brace {"\n'
_COMMON = {
    "POD_NAME": "web-7c9d",
    "POD_NAMESPACE": "shop",
    "INSTANCE_IP": "127.0.0.1",
    "SERVICE_ACCOUNT": "web",
    "HOST_IP": "10.0.0.1",
    "ISTIO_META_CLUSTER_ID": "Kubernetes",
    "ISTIO_META_WORKLOAD_NAME": "web",
}


@dataclass(frozen=True)
class Specification:
    """What a pod template says of the proxy; `{port}` and `{envoy}` are filled in."""

    arguments: str
    port: int
    identity: str
    prober: Mapping[str, object]
    environment: Mapping[str, str] = field(default_factory=dict)


OLDER = Specification(
    "proxy sidecar --domain shop.svc.cluster.local --configPath /etc/istio/proxy --binaryPath {envoy}"
    " --serviceCluster web.shop --drainDuration 45s --parentShutdownDuration 1m0s --discoveryAddress localhost:{port}"
    " --dnsRefreshRate 300s --connectTimeout 10s --proxyAdminPort 15000 --concurrency 2 --statusPort 15020"
    " --controlPlaneAuthPolicy MUTUAL_TLS --applicationPorts 8080 --proxyLogLevel=warning"
    " --proxyComponentLogLevel=misc:error --trust-domain=cluster.local --log_output_level=default:info",
    15011,
    "spiffe://cluster.local/ns/shop/sa/istio-pilot-service-account",
    {"path": "/health", "port": APPLICATION},
    {"SDS_ENABLED": "false", "ISTIO_META_INTERCEPTION_MODE": "REDIRECT", "ISTIO_METAJSON_LABELS": '{"app":"web"}\n'},
)
NEWER = Specification(
    "proxy sidecar --domain shop.svc.cluster.local --proxyLogLevel=warning --proxyComponentLogLevel=misc:error"
    " --log_output_level=default:info",
    15012,
    "localhost",
    {"httpGet": {"path": "/health", "port": APPLICATION}, "timeoutSeconds": 5},
    {
        "PROXY_CONFIG": '{"binaryPath":"{envoy}","discoveryAddress":"localhost:{port}","concurrency":2}\n',
        "PILOT_CERT_PROVIDER": "istiod",
        "CA_ADDR": "istiod.istio-system.svc:15012",
        "TRUST_DOMAIN": "cluster.local",
        "ISTIO_CPU_LIMIT": "2",
        "TERMINATION_DRAIN_DURATION_SECONDS": "3",
    },
)


def injected() -> Specification:
    """Return the sidecar that `agent inject` adds to a pod, as a kubelet would start it."""
    probe: dict[str, JsonValue] = {"httpGet": {"path": "/health", "port": APPLICATION}, "timeoutSeconds": 5}
    container: dict[str, JsonValue] = {"name": "web", "image": "web:1", "livenessProbe": probe}
    pod: dict[str, JsonValue] = {"kind": "Pod", "metadata": {"name": "web-7c9d"}, "spec": {"containers": [container]}}
    options = InjectionOptions(discovery_address="localhost:15012", certificates=Certificates(secret="web"))
    spec: Any = applied(pod, planning.inject(pod, options).edits)["spec"]
    _, sidecar = spec["initContainers"]
    words = " ".join(sidecar["args"]).replace("$(POD_NAMESPACE)", "shop").replace("=envoy", "={envoy}")
    environment = {each["name"]: each["value"] for each in sidecar["env"] if "value" in each}
    prober = json.loads(environment.pop("ISTIO_KUBE_APP_PROBERS"))["/app-health/web/livez"]
    return Specification(words, 15012, "localhost", prober, environment)


INJECTED = injected()


@dataclass
class Pod:
    """A pod of a specification; `files` holds what is mounted over /etc."""

    room: Room
    plane: ControlPlane
    specification: Specification
    agent: Process | None = None
    mint: Mint = field(default_factory=Mint)

    def __post_init__(self) -> None:
        self.files, self.certs = self.room.directory / "etc", self.room.directory / "certs"
        self.log = self.room.directory / "pilot-agent.log"
        self.program = self.room.directory / "pilot-agent"

    def prepare(self) -> None:
        """Write the files of the pod, and the certificate of its control plane."""
        self.program.write_text(_LAUNCHER.format(python=sys.executable, here=str(HERE)), encoding="utf-8")
        self.program.chmod(0o755)
        described = self.room.directory / "istio/pod"
        described.mkdir(parents=True)
        self.labels = described / "labels"
        self.labels.write_text(_LABELS, encoding="utf-8")
        (described / "annotations").write_text(_ANNOTATIONS, encoding="utf-8")
        self.files.mkdir()
        (self.files / "istio").symlink_to(described.parent)
        (self.files / "certs").symlink_to(self.certs)
        self.renew()
        self.plane.identify_as(self.specification.identity)
        self.plane.listen_at(self.specification.port)
        self.plane.listeners({**plain_listener("plain", LISTENER), "traffic_direction": "INBOUND"})

    def renew(self) -> None:
        """Write a new client pair as a kubelet does."""
        leaf = self.mint.leaf("spiffe://cluster.local/ns/shop/sa/web")
        pem = {"cert-chain.pem": leaf.chain_pem, "key.pem": leaf.key_pem, "root-cert.pem": authority().pem}
        mounted(self.certs, pem)

    def start(self) -> None:
        """Start the container."""
        values = {"{envoy}": str(needed("envoy").binary), "{port}": str(self.specification.port)}
        prober = json.dumps({"/app-health/web/livez": self.specification.prober})
        variables = {**_COMMON, **self.specification.environment, "ISTIO_KUBE_APP_PROBERS": prober}
        variables["AGENT_RUN_DIR"] = str(self.room.directory / "run")  # /run is not the pod's own here
        environment = [f"{name}={filled(value, values)}" for name, value in variables.items()]
        over = ["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={self.files}:/etc", "/etc"]
        script = f'{" ".join(over)} && exec "$@"'
        inside = ["unshare", "--mount", "sh", "-c", script, "sh"]
        words = [filled(word, values) for word in self.specification.arguments.split()]
        self.agent = self.room.spawn([*inside, "env", *environment, str(self.program), *words], log=self.log)

    def call(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command of pilot-agent in the pod; return its exit code and both outputs."""
        done = subprocess.run([self.program, *arguments], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return a text with its placeholders filled in."""
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


@pytest.fixture(params=[OLDER, NEWER, INJECTED], ids=["1.3", "1.31", "injected"])
def pod(request: pytest.FixtureRequest, room: Room) -> Iterator[Pod]:
    """A pod, not started, and its control plane; the agent must have ended."""
    if not room.private or shutil.which("unshare") is None:
        pytest.skip("without namespaces there is no pod")
    with control_plane(room) as plane:
        pod = Pod(room, plane, request.param)
        pod.prepare()
        try:
            yield pod
        finally:
            if pod.agent is not None and pod.agent.poll() is None:
                pod.agent.terminate()
                pod.agent.wait(60)


def test_a_pod_lives_its_life(pod: Pod, loads: Loads, room: Room) -> None:
    pod.plane.start()
    pod.start()
    assert pod.call("wait", "--timeoutSeconds", "120") == (0, "", "")

    code, out, err = pod.call("request", "GET", "server_info")
    assert (code, json.loads(out)["state"], err) == (0, "LIVE", "")
    assert pod.call("request", "GET", "no-such-path")[0] == 0
    assert pod.call("request", "--debug-port=15020", "GET", "/healthz/ready")[0] == 0
    node = pod.plane.seen("subscribed")[0]["node"]
    assert node == "sidecar~127.0.0.1~web-7c9d.shop~shop.svc.cluster.local"

    code, _, _ = pod.call("request", "--debug-port=15020", "GET", "app-health/web/livez")
    assert code == 255, "the application is not there yet"
    with application(room):
        assert pod.call("request", "--debug-port=15020", "GET", "app-health/web/livez") == (0, "healthy\n\n", "")

    assert '"app": "web"' in out, "the node has the labels"
    pod.labels.write_text(_LABELS.replace('"web"', '"renamed"'), encoding="utf-8")
    loads.gentle(Target("127.0.0.1", LISTENER), Target("127.0.0.1", LISTENER))
    for _ in range(ROTATIONS):
        pod.renew()
        eventually(lambda: serial(pod.mint.newest) in pod.plane.client_serials(), what="the new pair is shown")
        assert pod.call("wait") == (0, "", "")
    renamed = lambda: '"app": "renamed"' in pod.call("request", "GET", "server_info")[1]  # noqa: E731
    eventually(renamed, what="the next epoch takes the label along")
    loads.more(10)
    nothing_failed(loads.finish(at_least=20))

    assert pod.call("request", "--debug-port=15020", "POST", "drain")[0] == 0
    eventually(lambda: "listener.127.0.0.1_10080" not in pod.call("request", "GET", "listeners")[1], what="it drains")
    assert pod.agent is not None
    pod.agent.send_signal(signal.SIGTERM)
    assert pod.agent.wait(60) == 0
    log = pod.log.read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert ("PILOT_CERT_PROVIDER, CA_ADDR" in log) == (pod.specification is NEWER)


@contextmanager
def application(room: Room) -> Iterator[None]:
    """Run the application of the pod: it is healthy."""
    log = room.directory / "application.log"
    process = room.spawn_bare([sys.executable, "-c", _APPLICATION.format(port=APPLICATION)], log=log)
    try:
        eventually(lambda: body_of(Target("127.0.0.1", APPLICATION)) is not None, what="the application listens")
        yield
    finally:
        process.kill()
        process.wait()
