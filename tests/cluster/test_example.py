"""The committed examples on a real cluster, under load."""

from dataclasses import replace
from functools import partial

import pytest

from tests.cluster import life
from tests.cluster.cluster import Cluster
from tests.cluster.manifests import certificate, example, namespace
from tests.cluster.steps import Trial
from tests.cluster.traffic import traffic
from tests.pki import Authority


@pytest.mark.parametrize("name", ["native-sidecar", "classic-sidecar"])
def test_no_request_fails_through_a_life_of_an_example(cluster: Cluster, name: str) -> None:
    authority = Authority.create("trial")
    first, second, third = (authority.issue(["app.trial.svc"]) for _ in range(3))
    cluster.apply(namespace(name), certificate(name, first), *example(name))
    with traffic(cluster, name, "app", 15443, tls=True) as load:
        trial = Trial(cluster, name, load, partial(certificate, name))
        life.first_start(trial)
        life.rotation(trial, second)
        life.mismatch(trial, replace(third, key=first.key), probed=name == "native-sidecar")
        life.rotation(trial, third)
        trial.rolled_out()
        life.rollout(trial)
        life.scale_up(trial, 5)
        life.node_drained(trial)
        life.no_request_failed(trial)
