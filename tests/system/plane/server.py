"""The control plane's program: `python -m tests.system.plane.server DIRECTORY`, started in a test's sandbox.

The directory has `server.json` (`port`, perhaps `host`, and for mTLS the files `chain`, `key` and `trusted`) and
`behaviour.json`, which is read again on SIGHUP. The server writes its events to `seen.jsonl`, one per line.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
from cryptography import x509

from tests.system.plane.behaviour import Behaviour, read
from tests.system.plane.resources import xds
from tests.system.plane.streams import Delta, Message, Record, Shelf, StateOfTheWorld, Stream

SERVICES = {
    "envoy.service.discovery.v3.AggregatedDiscoveryService": "AggregatedResources",
    "envoy.service.listener.v3.ListenerDiscoveryService": "Listeners",
    "envoy.service.cluster.v3.ClusterDiscoveryService": "Clusters",
    "envoy.service.secret.v3.SecretDiscoveryService": "Secrets",
}


class Log:
    """Writes events to a file, each at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def record(self, event: str, **more: object) -> None:
        """Write one event."""
        self._file.write(json.dumps({"event": event, "at": time.monotonic(), **more}) + "\n")


def client_serial(context: Message) -> str | None:
    """Return the serial number of the client's certificate in hexadecimal, None without one."""
    pems = context.auth_context().get("x509_pem_cert")
    return f"{x509.load_pem_x509_certificate(pems[0]).serial_number:x}" if pems else None


def method(shelf: Shelf, record: Record, kind: type[Stream], name: str) -> Message:
    """Return the handler of one method of a service."""

    async def handle(requests: AsyncIterator[Message], context: Message) -> None:
        await kind(shelf, record, context).run(requests, name, client_serial(context))

    delta = kind is Delta
    request = xds.DeltaDiscoveryRequest if delta else xds.DiscoveryRequest
    response = xds.DeltaDiscoveryResponse if delta else xds.DiscoveryResponse
    return grpc.stream_stream_rpc_method_handler(handle, request.FromString, response.SerializeToString)


def handlers(shelf: Shelf, record: Record) -> list[Message]:
    """Return the handlers of all services, each as state of the world and incremental."""
    made = []
    for service, what in SERVICES.items():
        names: dict[str, type[Stream]] = {f"Stream{what}": StateOfTheWorld, f"Delta{what}": Delta}
        methods = {name: method(shelf, record, kind, name) for name, kind in names.items()}
        made.append(grpc.method_handlers_generic_handler(service, methods))
    return made


def bind(server: Message, settings: dict[str, Any]) -> None:
    """Bind the port, with TLS and client certificates if the settings name files for it."""
    address = f"{settings.get('host', '127.0.0.1')}:{settings['port']}"
    if "chain" not in settings:
        server.add_insecure_port(address)
        return
    chain, key, trusted = (Path(settings[name]).read_bytes() for name in ("chain", "key", "trusted"))
    server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)], trusted, require_client_auth=True))


async def serve(directory: Path) -> None:
    """Serve until killed."""
    record = Log(directory / "seen.jsonl").record
    shelf = Shelf(Behaviour())

    def load() -> None:
        shelf.put(read(directory / "behaviour.json"))
        record("behaviour", number=shelf.behaviour.number)

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(tuple(handlers(shelf, record)))
    bind(server, json.loads((directory / "server.json").read_text(encoding="utf-8")))
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, load)
    await server.start()
    load()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
