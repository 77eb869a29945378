"""A load on a service, without kube-proxy: the client watches the service's endpoints and balances over the ready ones.

Every request has a connection of its own and is never retried.
"""

import contextlib
import http.client
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
WATCHED = 60  # seconds for which a watch lasts at most
Json = dict[str, Any]


@dataclass
class Endpoints:
    """The addresses of a service's ready pods, as the API server tells them: a list, and a watch from there on."""

    cluster: Cluster
    namespace: str
    service: str
    over: threading.Event = field(default_factory=threading.Event)
    _slices: dict[str, list[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _connection: http.client.HTTPSConnection | None = None

    def ready(self) -> list[str]:
        """Return the addresses to which new requests may go."""
        with self._lock:
            return [address for addresses in self._slices.values() for address in addresses]

    def follow(self) -> None:
        """List and watch until `close`; a watch that the server ends is followed by another."""
        while not self.over.is_set():
            with contextlib.closing(self.cluster.connection()) as connection:
                self._connection = connection
                with contextlib.suppress(OSError, http.client.HTTPException):
                    self._watch(connection, self._list(connection))

    def close(self) -> None:
        """End `follow`, which another thread runs."""
        self.over.set()
        if self._connection is not None and self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)

    def _list(self, connection: http.client.HTTPSConnection) -> str:
        """Take over all slices; return the version from which to watch."""
        document = json.loads(self._ask(connection).read())
        with self._lock:
            self._slices = {each["metadata"]["name"]: _ready_in(each) for each in document["items"]}
        version: str = document["metadata"]["resourceVersion"]
        return version

    def _watch(self, connection: http.client.HTTPSConnection, version: str) -> None:
        stream = self._ask(connection, f"&watch=true&timeoutSeconds={WATCHED}&resourceVersion={version}")
        while (line := stream.readline()) and (event := json.loads(line))["type"] != "ERROR":
            name = event["object"]["metadata"]["name"]
            with self._lock:
                self._slices[name] = [] if event["type"] == "DELETED" else _ready_in(event["object"])

    def _ask(self, connection: http.client.HTTPSConnection, more: str = "") -> http.client.HTTPResponse:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices"
        query = f"labelSelector=kubernetes.io%2Fservice-name%3D{self.service}{more}"
        connection.request("GET", f"{path}?{query}", headers=self.cluster.headers())
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise http.client.HTTPException(answer.read().decode(errors="replace"))
        return answer


def _ready_in(document: Json) -> list[str]:
    """Return the addresses of a slice that are ready."""
    endpoints = document.get("endpoints") or []
    return [address for each in endpoints if each["conditions"].get("ready") for address in each["addresses"]]


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
    load = Traffic(Endpoints(cluster, namespace, service), port, tls)
    threads = [threading.Thread(target=run) for run in (load.endpoints.follow, *[load.run] * CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.over.set()
        load.endpoints.close()
        for thread in threads:
            thread.join()
