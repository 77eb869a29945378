"""The steps of a trial, each under load: what was answered and what failed during each, and the events after it."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.traffic import Traffic
from tests.pki import Leaf
from tests.system.eventually import eventually

Json = dict[str, Any]
ROLLED_OUT = 400.0  # seconds
OURS = "proxy-agent"


@dataclass(frozen=True)
class Step:
    """The result of a step."""

    name: str
    seconds: float
    ok: int
    failed: int

    def __str__(self) -> str:
        return f"{self.name}: {self.seconds:.1f} s, {self.ok} requests answered, {self.failed} failed"


@dataclass
class Trial:
    """A Deployment under load. Its steps are printed as they end: they are the trial's figures."""

    cluster: Cluster
    namespace: str
    load: Traffic
    secret: Callable[[Leaf], Json]
    deployment: str = "app"
    container: str = "agent"
    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count the requests of a step."""
        begun, ok, failed = time.monotonic(), self.load.ok, len(self.load.losses)
        try:
            yield
        finally:
            done = Step(name, time.monotonic() - begun, self.load.ok - ok, len(self.load.losses) - failed)
            self.steps.append(done)
            self.show(str(done))

    def kubectl(self, *words: str) -> str:
        """Run kubectl in the trial's namespace."""
        return self.cluster.kubectl(f"--namespace={self.namespace}", *words, within=ROLLED_OUT)

    def rolled_out(self) -> None:
        """Wait until the Deployment's pods are those wanted, and no others are left."""
        self.kubectl("rollout", "status", f"deployment/{self.deployment}", f"--timeout={ROLLED_OUT:g}s")
        eventually(self.settled, within=ROLLED_OUT, what="no pod is ending", every=0.5)

    def settled(self) -> bool:
        """Return whether no pod of the Deployment is ending."""
        return not any("deletionTimestamp" in pod["metadata"] for pod in self.pods())

    def pods(self) -> list[Json]:
        """Return the pods of the Deployment."""
        selector = f"--selector=app={self.deployment}"
        items: list[Json] = json.loads(self.kubectl("get", "pods", selector, "--output=json"))["items"]
        return items

    def nodes(self) -> list[str]:
        """Return the nodes of its pods."""
        return [pod["spec"].get("nodeName", "") for pod in self.pods()]

    def events(self, component: str = OURS) -> list[tuple[str, str]]:
        """Return reason and message of the events that a component reported."""
        items = json.loads(self.kubectl("get", "events", "--output=json"))["items"]
        return [
            (each["reason"], each["message"]) for each in items if each.get("source", {}).get("component") == component
        ]

    def names(self) -> list[str]:
        """Return the names of its pods that are not ending."""
        return [pod["metadata"]["name"] for pod in self.pods() if "deletionTimestamp" not in pod["metadata"]]

    def is_ready(self, name: str) -> bool:
        """Return whether the kubelet calls a pod ready."""
        (pod,) = (each for each in self.pods() if each["metadata"]["name"] == name)
        return {each["type"]: each["status"] for each in pod["status"]["conditions"]}.get("Ready") == "True"

    def described(self, name: str) -> str:
        """Return the events that `kubectl describe` prints of a pod."""
        return self.kubectl("describe", "pod", name).partition("\nEvents:")[2]

    def show_described(self, name: str) -> None:
        """Show the lines of `kubectl describe` that warn, as an operator sees them."""
        lines = [line.strip() for line in self.described(name).splitlines() if line.strip().startswith("Warning")]
        self.show("\n".join(f"  {line}" for line in lines))

    def show_events(self) -> None:
        """Show the agents' events, each text once with how often it was sent."""
        for (reason, message), times in Counter(self.events()).items():
            self.show(f"  {times} x {reason}: {message}")

    @staticmethod
    def show(text: str) -> None:
        """Print a figure or a sentence of the trial; the report of a trial consists of them."""
        print(text, file=sys.stderr)  # noqa: T201

    def renew(self, leaf: Leaf) -> None:
        """Write a pair into the secret that the pods mount."""
        self.cluster.apply(self.secret(leaf))

    def status(self, pod: str) -> Json:
        """Return what `agent status` says in a pod."""
        command = ("exec", pod, f"--container={self.container}", "--", "agent", "status", "--json")
        answer: Json = json.loads(self.kubectl(*command))
        return answer
