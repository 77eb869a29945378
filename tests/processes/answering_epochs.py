"""Epochs whose admin interface is a real HTTP server on a Unix socket, with answers that the test sets."""

import json
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from agent.certificates.selection import LastGood, select_files
from agent.core.revision import Revision
from agent.handoff.socket_store import ListenAddress
from agent.host import clock
from agent.http.message import Request, Response
from agent.http.server import Server
from agent.processes.admission import Admission
from agent.processes.epoch_process import EpochProcess
from agent.proxies.envoy.admin_client import AdminClient
from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from tests.proxies.envoy.test_subscriptions import LDS

STATIC = "static_resources: {}"
PLANE = """
dynamic_resources:
  lds_config: {ads: {}, resource_api_version: V3}
  ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: ads}}]}
"""
BY_FILE = "dynamic_resources: {lds_config: {path_config_source: {path: /d/lds.yaml}}}"
WELL: dict[str, Any] = {
    "/certs": {},
    "/init_dump": {},
    "/clusters": {},
    "/server_info": {"state": "INITIALIZING"},
}


def counters(applied: int = 0, rejected: int = 0, failed: int = 0, scope: str = LDS) -> str:
    values = {"init_fetch_timeout": 0, "update_success": applied, "update_rejected": rejected, "update_failure": failed}
    return "".join(f"{scope}.{name}: {value}\n" for name, value in values.items())


class Epoch:
    """An epoch with a console whose `answers` (path to JSON or text) may change."""

    def __init__(self, path: Path, configuration: Configuration, number: int) -> None:
        self.answers: dict[str, Any] = {"/stats": "", **WELL}
        self.asked = 0  # how often it was asked for its counters
        selection = select_files([], {}, LastGood(), clock.calendar())
        program = SimpleNamespace(binary=SimpleNamespace(path=Path("/usr/bin/envoy")), kind=Envoy(Flags(), 1.0))
        loaded = SimpleNamespace(
            revision=Revision("digest", "shape"),
            configuration=configuration,
            selection=selection,
            descriptors={},
            paths={9: "/c/tls.key"},
            program=program,
        )
        admin = AdminClient(path)
        told = SimpleNamespace(
            number=number, admin=admin, loaded=loaded, target=None, delivery=None, paths=loaded.paths
        )
        self.process = cast(EpochProcess, told)

    async def answer(self, request: Request) -> Response:
        self.asked += request.path == "/stats"
        target = request.target if request.target in self.answers else request.path
        answer = self.answers.get(target)
        if answer is None:
            return Response(404, b"")
        return Response(200, (answer if isinstance(answer, str) else json.dumps(answer)).encode())


class Sockets:
    """What the admission wants of the sockets: which listeners a candidate lacks, until they are followed."""

    def __init__(self, missing: Collection[ListenAddress] = ()) -> None:
        self.lacking, self.gone, self.followed = list(missing), False, 0

    def missing(self, _candidate: EpochProcess, _before: Configuration | None) -> list[ListenAddress]:
        return self.lacking

    async def follow(self, _serving: EpochProcess) -> None:
        self.followed += 1
        if self.gone:
            self.lacking.clear()


@asynccontextmanager
async def epoch(directory: Path, text: str, number: int = 2) -> AsyncIterator[Epoch]:
    path = directory / f"admin{number}"
    resources = {"/d/lds.yaml": b"resources: []"} if "/d/lds.yaml" in text else {}
    made = Epoch(path, Configuration(text, "envoy.yaml", None, resources), number)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    server = Server(made.answer)
    await server.start(listener)
    try:
        yield made
    finally:
        await server.close()


def admission(candidate: Epoch, serving: Epoch | None = None, sockets: Sockets | None = None) -> Admission:
    return Admission(
        candidate.process, lambda: None if serving is None else serving.process, cast(Any, sockets or Sockets())
    )
