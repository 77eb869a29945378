"""`agent webhook` on a real API server: a namespace with a label, and Deployments that know nothing of the sidecar."""

import base64
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from cryptography import x509

from tests.cluster import life
from tests.cluster.cluster import Cluster
from tests.cluster.manifests import (
    CERTIFICATE,
    Json,
    application,
    certificate,
    may_send_events,
    namespace,
    secret,
)
from tests.cluster.steps import Trial
from tests.cluster.traffic import traffic
from tests.pki import Authority
from tests.system.eventually import PATIENCE, eventually

NAME, HOME = "proxy-agent-webhook", "proxy-agent"
HOST = f"{NAME}.{HOME}.svc"
LABEL = {"istio-injection": "enabled"}


def test_pods_are_injected_as_the_api_server_creates_them(cluster: Cluster) -> None:
    name = "labelled"
    authority, later, trial_authority = (Authority.create(each) for each in ("webhook", "webhook 2", "trial"))
    first, second, third = (trial_authority.issue(["app.labelled.svc"]) for _ in range(3))
    with _installed(cluster, authority):
        cluster.apply(namespace(name, **LABEL), certificate(name, first), *may_send_events(name), *application(name))
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
            with trial.step("rollout, while another authority issues the webhook's certificate"):
                cluster.apply(_pair(later))
                trial.kubectl("rollout", "restart", "deployment/app")
                trial.rolled_out()
                eventually(lambda: _registered(cluster) == {"webhook", "webhook 2"}, what="both authorities", every=0.5)
            life.rollout(trial)
            life.scale_up(trial, 5)
            life.node_drained(trial)
            life.no_request_failed(trial)
        assert _failures(cluster, name) == []


def test_a_refusal_is_an_event_that_names_the_field(cluster: Cluster) -> None:
    name = "refused"
    with _installed(cluster, Authority.create("webhook")):
        cluster.apply(namespace(name, **LABEL), *application(name, **{"sidecar.istio.io/proxyMemory": "much"}))
        message = eventually(lambda: _failures(cluster, name), what="the refusal", every=0.5)[0]
        Trial.show(message)
        assert f'admission webhook "namespace.{HOST}" denied the request: cannot change Pod refused/app-' in message
        assert "metadata.annotations.sidecar.istio.io/proxyMemory cannot be used: it is not a quantity" in message


@contextmanager
def _installed(cluster: Cluster, authority: Authority) -> Iterator[None]:
    """Apply what `agent webhook --manifest` prints, wait until it has registered itself; delete it at the end."""
    options = ["--profile=tls", f"--cert-source=secret:{CERTIFICATE}", "--kubernetes-events"]
    command = [sys.executable, "-m", "agent", "webhook", "--manifest", *options]
    manifest = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    cluster.apply(namespace(HOME), _pair(authority))
    cluster.kubectl("apply", "--filename=-", given=manifest)
    cluster.kubectl("rollout", "status", f"deployment/{NAME}", f"--namespace={HOME}", within=2 * PATIENCE)
    eventually(lambda: _registered(cluster) == {"webhook"}, what="the authority is registered", every=0.5)
    try:
        yield
    finally:
        cluster.kubectl("delete", "mutatingwebhookconfiguration", NAME)
        cluster.kubectl("delete", "clusterrole,clusterrolebinding", NAME)
        cluster.delete_namespaces(HOME)


def _pair(authority: Authority) -> Json:
    """Return the secret of the webhook: a pair of this authority, and the authority."""
    leaf = authority.issue([HOST])
    files = {"tls.crt": leaf.chain_pem, "tls.key": leaf.key_pem, "ca.crt": authority.pem}
    return secret(HOME, f"{NAME}-tls", files)


def _registered(cluster: Cluster) -> set[str]:
    """Return the names of the authorities in the registration, the same in each webhook of it."""
    webhooks = cluster.get("mutatingwebhookconfiguration", NAME)["webhooks"]
    bundles = {base64.b64decode(each["clientConfig"].get("caBundle", "")) for each in webhooks}
    assert len(bundles) == 1, bundles
    (bundle,) = bundles
    return {each.subject.rfc4514_string().removeprefix("CN=") for each in _certificates(bundle)}


def _certificates(bundle: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(bundle) if bundle.strip() else []


def _failures(cluster: Cluster, name: str) -> list[str]:
    """Return the messages of pods that could not be created in a namespace."""
    events = cluster.get("events", f"--namespace={name}")["items"]
    return [each["message"] for each in events if each["reason"] == "FailedCreate"]
