"""Injection at the API server: a namespace with a label, and Deployments that know nothing of the sidecar."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from agent.injection.options import Certificates, InjectionOptions, Profile
from tests.cluster import admission, life
from tests.cluster.cluster import Cluster
from tests.cluster.manifests import CERTIFICATE, application, certificate, may_send_events, namespace
from tests.cluster.steps import Trial
from tests.cluster.traffic import traffic
from tests.pki import Authority
from tests.system.eventually import eventually

OPTIONS = InjectionOptions(profile=Profile.TLS, certificates=Certificates(secret=CERTIFICATE), kubernetes_events=True)


def test_no_request_fails_in_a_namespace_with_the_label(cluster: Cluster, tmp_path: Path) -> None:
    name = "labelled"
    authority = Authority.create("trial")
    first, second, third = (authority.issue(["app.labelled.svc"]) for _ in range(3))
    with admission.open_webhook(cluster, tmp_path, OPTIONS) as reviews:
        cluster.apply(namespace(name, **admission.LABEL), certificate(name, first), *may_send_events(name))
        cluster.apply(*application(name))
        with traffic(cluster, name, "app", 15443, tls=True) as load:
            trial = Trial(cluster, name, load, partial(certificate, name))
            life.first_start(trial)
            for pod in trial.pods():
                assert [each["name"] for each in pod["spec"]["initContainers"]] == ["agent"]
                assert [each["name"] for each in pod["spec"]["containers"]] == ["app"]
            life.rotation(trial, second)
            life.mismatch(trial, replace(third, key=first.key))
            life.rotation(trial, third)
            trial.rolled_out()
            life.rollout(trial)
            life.scale_up(trial, 5)
            life.node_drained(trial)
            life.no_request_failed(trial)
            trial.show(f"  {len(reviews.results)} reviews: {sorted(set(reviews.results))}")
        assert set(reviews.results) == {"patched"}
        cluster.delete_namespace(name)


def test_a_refusal_reaches_the_operator(cluster: Cluster, tmp_path: Path) -> None:
    name = "refused"
    mesh = InjectionOptions()
    service, deployment = application(name)
    deployment["spec"]["template"]["spec"]["containers"][0]["securityContext"]["runAsUser"] = 1337
    with admission.open_webhook(cluster, tmp_path, mesh) as reviews:
        cluster.apply(namespace(name, **admission.LABEL), service, deployment)
        described = lambda: cluster.kubectl("describe", "replicaset", f"--namespace={name}")  # noqa: E731
        eventually(lambda: "FailedCreate" in described(), what="the refusal", every=0.5)
        (line,) = [each for each in described().splitlines() if "FailedCreate " in each][:1]
        Trial.show(line.strip())
        assert "runAsUser" in line
        assert "1337" in line
        assert set(reviews.results) == {"refused"}
        cluster.delete_namespace(name)
