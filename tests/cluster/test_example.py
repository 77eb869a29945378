"""The committed example on a real cluster, under load: rotation, rollout, scale-up, drain of a node."""

import time

from tests.cluster.cluster import Cluster
from tests.cluster.manifests import TRIAL_NAMESPACE, certificate, example, namespace
from tests.cluster.steps import Trial
from tests.cluster.traffic import traffic
from tests.pki import Authority
from tests.system.eventually import eventually

PORT = 15443
REPLICAS = 2


def test_no_request_fails_through_a_life_of_the_example(cluster: Cluster) -> None:
    authority = Authority.create("trial")
    first, second = (authority.issue(["app.trial.svc"]) for _ in range(2))
    cluster.apply(namespace(TRIAL_NAMESPACE), certificate(first), *example("native-sidecar.yaml"))
    with traffic(cluster, TRIAL_NAMESPACE, "app", PORT, tls=True) as load:
        trial = Trial(cluster, TRIAL_NAMESPACE, load)
        with trial.step("first start"):
            trial.rolled_out()
            eventually(lambda: load.ok > 100, what="the pods answer")
        assert {"node-1", "node-2"} == set(trial.nodes())

        with trial.step("certificate rotated"):
            changed = time.monotonic()
            cluster.apply(certificate(second))
            after = trial.serves(second.certificate.serial_number, changed)
            eventually(lambda: _all_rotated(trial, 1), what="all pods serve it")
        print(f"the new certificate was served after {after:.1f} s")  # noqa: T201

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
        cluster.kubectl("uncordon", "node-1")
    assert load.losses == []
    assert all(step.ok for step in trial.steps)


def _all_rotated(trial: Trial, epoch: int) -> bool:
    for pod in trial.pods():
        name = pod["metadata"]["name"]
        answer = trial.kubectl("exec", name, "--container=agent", "--", "agent", "status", "--json")
        assert f'"epoch": {epoch}' in answer, answer[:500]
    return True
