"""The committed example on a real cluster, under load: rotation, a refused pair, rollout, scale-up, drain of a node."""

import json
import time
from dataclasses import replace

from tests.cluster.cluster import Cluster
from tests.cluster.manifests import TRIAL_NAMESPACE, certificate, example, namespace
from tests.cluster.steps import Trial
from tests.cluster.traffic import traffic
from tests.pki import Authority, Leaf
from tests.system.eventually import eventually

PORT = 15443


def test_no_request_fails_through_a_life_of_the_example(cluster: Cluster) -> None:
    authority = Authority.create("trial")
    first, second, third = (authority.issue(["app.trial.svc"]) for _ in range(3))
    cluster.apply(namespace(TRIAL_NAMESPACE), certificate(first), *example("native-sidecar.yaml"))
    with traffic(cluster, TRIAL_NAMESPACE, "app", PORT, tls=True) as load:
        trial = Trial(cluster, TRIAL_NAMESPACE, load)
        with trial.step("first start"):
            trial.rolled_out()
            eventually(lambda: load.ok > 100, what="the pods answer")
        assert set(trial.nodes()) == {"node-1", "node-2"}

        with trial.step("certificate rotated"):
            _rotate(trial, second)
        with trial.step("a key of another certificate, and a new pod that finds it"):
            _mismatch(trial, replace(third, key=first.key))
        with trial.step("repaired"):
            _rotate(trial, third)
            trial.rolled_out()
        with trial.step("rollout"):
            trial.kubectl("rollout", "restart", "deployment/app")
            trial.rolled_out()
        with trial.step("scale-up"):
            trial.kubectl("scale", "deployment/app", "--replicas=5")
            trial.rolled_out()
        assert len(trial.pods()) == 5

        with trial.step("node drained"):
            trial.kubectl("drain", "node-1", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s")
            trial.rolled_out()
        assert set(trial.nodes()) == {"node-2"}
        trial.kubectl("uncordon", "node-1")
        with trial.step("at rest"):
            enough = load.ok + 500
            eventually(lambda: load.ok > enough, what="more answers")
    trial.show_events()
    assert load.losses == []
    assert all(step.ok for step in trial.steps)


def _rotate(trial: Trial, leaf: Leaf) -> None:
    """Give the pods a pair, and wait until each serves it."""
    changed = time.monotonic()
    trial.cluster.apply(certificate(leaf))
    after = trial.serves(leaf.certificate.serial_number, changed)
    eventually(lambda: all(_serves(trial, name, leaf) for name in trial.names()), what="each pod serves it", every=0.5)
    trial.show(
        f"  a client saw it after {after:.1f} s, the last pod served it after {time.monotonic() - changed:.1f} s"
    )


def _serves(trial: Trial, pod: str, leaf: Leaf) -> bool:
    status = json.loads(trial.kubectl("exec", pod, "--container=agent", "--", "agent", "status", "--json"))
    serials = [serial for epoch in status["epochs"] if epoch["state"] == "serving" for serial in epoch["serials"]]
    return [int(serial, 16) for serial in serials] == [leaf.certificate.serial_number]


def _mismatch(trial: Trial, pair: Leaf) -> None:
    """Give the pods a certificate with the key of another: they serve on and say so; a new pod says why it waits."""
    old = trial.names()
    trial.cluster.apply(certificate(pair))
    for name in old:
        eventually(lambda name=name: "CertificateRefused" in trial.described(name), what="the event", every=0.5)
    trial.show_described(old[0])
    trial.kubectl("scale", "deployment/app", "--replicas=3")
    (new,) = eventually(lambda: set(trial.names()) - set(old), what="a new pod")
    eventually(lambda: "Startup probe failed: " in trial.described(new), what="the probe's sentence", every=0.5)
    trial.show_described(new)
    ready = {name: trial.is_ready(name) for name in trial.names()}
    assert ready == {**dict.fromkeys(old, True), new: False}
