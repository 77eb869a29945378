"""A control plane of one listener: LDS over gRPC. `python control_plane.py PORT LISTENER.json`.

The wire format is written by hand, so that the tests need no generated code of Envoy's: field numbers are those of
envoy/config/listener/v3/listener.proto, envoy/config/core/v3/address.proto and
envoy/service/discovery/v3/discovery.proto. Filters go as xds.type.v3.TypedStruct, which Envoy takes wherever it takes
an extension.
"""

import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.protobuf.struct_pb2 import Struct

LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
TYPED_STRUCT = "type.googleapis.com/xds.type.v3.TypedStruct"
SERVICE = "envoy.service.listener.v3.ListenerDiscoveryService"
WORKERS = 8


def varint(number: int) -> bytes:
    """Encode a number of up to 64 bits in base 128."""
    head = b""
    while number > 0x7F:
        head += bytes([number & 0x7F | 0x80])
        number >>= 7
    return head + bytes([number])


def field(number: int, value: int | str | bytes) -> bytes:
    """Encode one protobuf field: a varint, a string or a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def packed(kind: str, value: bytes) -> bytes:
    """Encode a google.protobuf.Any."""
    return field(1, kind) + field(2, value)


def typed(config: dict[str, Any]) -> bytes:
    """Encode the `typed_config` of an extension."""
    struct = Struct()
    struct.update({key: value for key, value in config.items() if key != "@type"})
    return packed(TYPED_STRUCT, field(1, config["@type"]) + field(2, struct.SerializeToString()))


def filter_chain(tree: dict[str, Any]) -> bytes:
    """Encode a filter chain without a match."""
    filters = [field(3, field(1, one["name"]) + field(4, typed(one["typed_config"]))) for one in tree["filters"]]
    return b"".join(filters)


def listener(tree: dict[str, Any]) -> bytes:
    """Encode a listener as `tests.system.bootstrap.listener` makes it, without TLS."""
    where = tree["address"]["socket_address"]
    address = field(1, field(2, where["address"]) + field(3, where["port_value"]))
    chains = [field(3, filter_chain(chain)) for chain in tree["filter_chains"]]
    return field(1, tree["name"]) + field(2, address) + b"".join(chains)


def discovery_response(tree: dict[str, Any]) -> bytes:
    """Encode the answer to an LDS request: this one listener."""
    resource = field(2, packed(LISTENER, listener(tree)))
    return field(1, "1") + resource + field(4, LISTENER) + field(5, "1")


def serve(port: int, tree: dict[str, Any]) -> None:
    """Answer the first request of every stream, and keep the streams open, for as long as the process lives."""

    def stream(requests: Iterator[bytes], _context: object) -> Iterator[bytes]:
        for number, _ in enumerate(requests):
            if number == 0:
                yield discovery_response(tree)

    handlers = {"StreamListeners": grpc.stream_stream_rpc_method_handler(stream)}
    server = grpc.server(ThreadPoolExecutor(WORKERS))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    threading.Event().wait()


if __name__ == "__main__":
    serve(int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
