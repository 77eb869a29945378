"""What happens to a Deployment in its life: each function is a step, and ends when the pods are as wanted."""

import time

from tests.cluster.steps import Trial
from tests.pki import Leaf
from tests.system.eventually import eventually

REFUSED = "CertificateRefused"
WAITS = "Startup probe failed: agent: cannot wait any longer than 1s"


def first_start(trial: Trial) -> None:
    """Wait for the first pods, one on each node."""
    with trial.step("first start"):
        trial.rolled_out()
        eventually(lambda: trial.load.ok > 100, what="the pods answer")
    assert set(trial.nodes()) == {"node-1", "node-2"}


def rotation(trial: Trial, leaf: Leaf) -> None:
    """Give the pods a pair, and wait until each serves it."""
    with trial.step("certificate rotated"):
        changed = time.monotonic()
        trial.renew(leaf)
        eventually(lambda: all(_serves(trial, name, leaf) for name in trial.names()), what="it is served", every=0.5)
        seen = trial.load.serials.get(leaf.certificate.serial_number)
        by_client = f"seen by a client after {seen - changed:.1f} s, " if seen else ""
        trial.show(f"  {by_client}served by each pod after {time.monotonic() - changed:.1f} s")


def _serves(trial: Trial, pod: str, leaf: Leaf) -> bool:
    status = trial.status(pod)
    serials = [serial for epoch in status["epochs"] if epoch["state"] == "serving" for serial in epoch["serials"]]
    return [int(serial, 16) for serial in serials] == [leaf.certificate.serial_number]


def mismatch(trial: Trial, pair: Leaf, *, probed: bool = True) -> None:
    """Give the pods a certificate with the key of another: they serve on and say so; a new pod says why it waits.

    `probed`: the pods have a startup probe that says it as well.
    """
    old = trial.names()
    with trial.step("a key of another certificate"):
        trial.renew(pair)
        eventually(lambda: all(REFUSED in trial.described(name) for name in old), what="the events", every=0.5)
        trial.show_described(old[0])
    with trial.step("a new pod that finds it"):
        trial.kubectl("scale", f"deployment/{trial.deployment}", f"--replicas={len(old) + 1}")
        (new,) = eventually(lambda: set(trial.names()) - set(old), what="a new pod")
        eventually(lambda: REFUSED in trial.described(new), what="the event", every=0.5)
        if probed:
            eventually(lambda: WAITS in trial.described(new), what="the probe's sentence", every=0.5)
        trial.show_described(new)
    ready = {name: trial.is_ready(name) for name in trial.names()}
    assert ready == {**dict.fromkeys(old, True), new: False}


def rollout(trial: Trial) -> None:
    """Replace each pod."""
    with trial.step("rollout"):
        trial.kubectl("rollout", "restart", f"deployment/{trial.deployment}")
        trial.rolled_out()


def scale_up(trial: Trial, replicas: int) -> None:
    """Run more pods."""
    with trial.step("scale-up"):
        trial.kubectl("scale", f"deployment/{trial.deployment}", f"--replicas={replicas}")
        trial.rolled_out()
    assert len(trial.pods()) == replicas


def node_drained(trial: Trial) -> None:
    """Evict the pods of one node, which is in use again afterwards."""
    with trial.step("node drained"):
        trial.kubectl("drain", "node-1", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=300s")
        trial.rolled_out()
    assert set(trial.nodes()) == {"node-2"}
    trial.kubectl("uncordon", "node-1")


def no_request_failed(trial: Trial) -> None:
    """Let the pods serve on for a while; no step may have lost a request."""
    with trial.step("at rest"):
        enough = trial.load.ok + 500
        eventually(lambda: trial.load.ok > enough, what="more answers")
    trial.show_events()
    assert trial.load.losses == []
    assert all(step.ok for step in trial.steps)
