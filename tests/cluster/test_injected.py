"""Deployments to which `agent inject` adds the sidecar, on a real cluster, under load."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.cluster import life, mesh
from tests.cluster.cluster import Cluster
from tests.cluster.manifests import CERTIFICATE, Json, application, certificate, may_send_events, namespace
from tests.cluster.steps import Trial
from tests.cluster.traffic import traffic
from tests.pki import Authority
from tests.system.eventually import PATIENCE, eventually


def injected(objects: Sequence[Json], *options: str) -> str:
    """Return what `agent inject` makes of objects."""
    command = [sys.executable, "-m", "agent", "inject", f"--cert-source=secret:{CERTIFICATE}", *options, "-f", "-"]
    text = "\n---\n".join(map(json.dumps, objects))
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_request_fails_with_tls_in_front_of_an_application(cluster: Cluster) -> None:
    name = "tls"
    authority = Authority.create("trial")
    first, second, third = (authority.issue(["app.tls.svc"]) for _ in range(3))
    cluster.apply(namespace(name), certificate(name, first), *may_send_events(name))
    cluster.kubectl("apply", "--filename=-", given=injected(application(name), "--profile=tls", "--kubernetes-events"))
    with traffic(cluster, name, "app", 15443, tls=True) as load:
        trial = Trial(cluster, name, load, partial(certificate, name))
        life.first_start(trial)
        life.rotation(trial, second)
        life.mismatch(trial, replace(third, key=first.key))
        life.rotation(trial, third)
        trial.rolled_out()
        life.rollout(trial)
        life.scale_up(trial, 5)
        life.node_drained(trial)
        life.no_request_failed(trial)


def test_no_request_fails_in_a_mesh(cluster: Cluster, tmp_path: Path) -> None:
    name = "mesh"
    cluster.apply(namespace(name), mesh.certificates(name, mesh.identity(name)))
    objects = application(name, **{"sidecar.istio.io/statsInclusionPrefixes": "tcp.inbound,tcp.outbound"})
    objects[-1]["spec"]["template"]["spec"]["hostAliases"] = mesh.ALIASES
    with mesh.open_control_plane(cluster, tmp_path) as plane:
        cluster.kubectl(
            "apply", "--filename=-", given=injected(objects, f"--discovery-address={mesh.ISTIOD}:{mesh.PORT}")
        )
        with traffic(cluster, name, "app", 8080, tls=False) as load:
            trial = Trial(cluster, name, load, partial(mesh.certificates, name), container="istio-proxy")
            life.first_start(trial)
            assert _connections(trial, "inbound") > 0
            before = _connections(trial, "outbound")
            _call_out(trial)
            assert _connections(trial, "outbound") > before
            leaf = mesh.identity(name)
            life.rotation(trial, leaf)
            shown = lambda: plane.client_serials().count(leaf.certificate.serial_number) >= 2  # noqa: E731
            eventually(shown, what="both pods show it to their control plane")
            life.rollout(trial)
            life.scale_up(trial, 4)
            life.node_drained(trial)
            life.no_request_failed(trial)


def _connections(trial: Trial, direction: str) -> int:
    """Return how many connections the proxy of a pod has taken."""
    command = ("--container=istio-proxy", "--", "pilot-agent", "request", "GET", f"stats?filter=tcp.{direction}")
    text = trial.kubectl("exec", trial.names()[0], *command)
    found = re.search(rf"^tcp\.{direction}\.downstream_cx_total: (\d+)$", text, re.MULTILINE)
    assert found is not None, text
    return int(found[1])


def _call_out(trial: Trial) -> None:
    """Let the application of a pod call that of another."""
    first, second = trial.pods()
    url = f"http://{second['status']['podIP']}:8080/"
    call = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=30).read().decode())"
    answer = trial.kubectl("exec", first["metadata"]["name"], "--container=app", "--", "python", "-c", call)
    assert answer.strip() == second["metadata"]["name"]
