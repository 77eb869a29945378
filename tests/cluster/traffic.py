"""A load on a service, without kube-proxy: the client watches the service's endpoints and balances over the ready ones.

Every request has a connection of its own and is never retried.
"""

import contextlib
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.cluster import Cluster
from tests.system.wire import Failed, Target, connect, exchange, serial_of, tls_context

CLIENTS = 4
PACE = 0.015
Json = dict[str, Any]


@dataclass
class Endpoints:
    """The addresses of a service's ready pods, as a watch of the API server tells them."""

    service: str
    slices: dict[str, list[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ready(self) -> list[str]:
        """Return the addresses to which new requests may go."""
        with self._lock:
            return [address for addresses in self.slices.values() for address in addresses]

    def path(self, namespace: str) -> str:
        """Return the path of the watch."""
        selector = f"labelSelector=kubernetes.io%2Fservice-name%3D{self.service}"
        return f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?watch=true&{selector}"

    def see(self, event: Json) -> None:
        """Take over an event of the watch."""
        document = event["object"]
        found = [
            address
            for endpoint in document.get("endpoints") or []
            if endpoint["conditions"].get("ready")
            for address in endpoint["addresses"]
        ]
        with self._lock:
            self.slices[document["metadata"]["name"]] = [] if event["type"] == "DELETED" else found


@dataclass(frozen=True)
class Loss:
    """A failed request: when, to which pod, and why."""

    at: float
    address: str
    error: str


@dataclass
class Traffic:
    """Clients that send requests until they are told to stop. `served` counts by the answering pod's name."""

    endpoints: Endpoints
    port: int
    tls: bool
    over: threading.Event = field(default_factory=threading.Event)
    served: Counter[str] = field(default_factory=Counter)
    serials: dict[int, float] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ok(self) -> int:
        """The number of answered requests."""
        return self.served.total()

    def run(self) -> None:
        """Send requests one after another; the pause keeps a machine of two cores usable."""
        context = tls_context()
        while not self.over.wait(PACE):
            if not (addresses := self.endpoints.ready()):
                continue
            target = Target(random.choice(addresses), self.port, self.tls)
            try:
                with connect(target, context) as sock:
                    serial = serial_of(sock)
                    body = exchange(sock, last=True).body.decode()
            except Failed as error:
                with self._lock:
                    self.losses.append(Loss(time.monotonic(), target.host, str(error)))
            else:
                with self._lock:
                    self.served[body.strip()] += 1
                    if serial is not None:
                        self.serials.setdefault(serial, time.monotonic())


@contextmanager
def traffic(cluster: Cluster, namespace: str, service: str, port: int, *, tls: bool) -> Iterator[Traffic]:
    """Send requests to a service's pods during the block."""
    endpoints = Endpoints(service)
    load = Traffic(endpoints, port, tls)
    connection = cluster.connection()
    connection.request("GET", endpoints.path(namespace), headers=cluster.headers())
    stream = connection.getresponse()
    assert stream.status == 200, stream.read()

    def watch() -> None:
        with contextlib.suppress(OSError, ValueError):  # ends by the shutdown below
            while (line := stream.readline()) and (event := json.loads(line))["type"] != "ERROR":
                endpoints.see(event)
        if not load.over.is_set():
            load.losses.append(Loss(time.monotonic(), "", "the watch of the endpoints ended"))

    threads = [threading.Thread(target=run) for run in (watch, *[load.run] * CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.over.set()
        assert connection.sock is not None
        connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        connection.close()
