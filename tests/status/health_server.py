"""A gRPC health server by grpcio: `python -m tests.status.health_server`; prints its port, ends with its input.

Service "" serves, "down" does not, "odd" has a status of its own, "broken" fails, "slow" answers late, "junk" answers
something else; others are not found.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc  # type: ignore[import-untyped]

_ANSWERS = {b"": b"\x08\x01", b"down": b"\x08\x02", b"odd": b"\x08\x07", b"zero": b"", b"junk": b"\x0a\x03abc"}


def check(request: bytes, context: Any) -> bytes:  # noqa: ANN401  # grpcio has no types
    """Answer one call; the request has the service as its only field."""
    name = request[2:]
    if name == b"slow":
        time.sleep(3)
    if name == b"broken":
        context.abort(grpc.StatusCode.INTERNAL, "broken")
    if name not in _ANSWERS:
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return _ANSWERS[name]


def main() -> None:
    """Serve until the standard input ends."""
    server = grpc.server(ThreadPoolExecutor(2))
    methods = {"Check": grpc.unary_unary_rpc_method_handler(check)} if "--without" not in sys.argv else {}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)  # noqa: T201  # for the test
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
