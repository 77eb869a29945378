"""Health endpoints for kubelets, load balancers and people: liveness and readiness."""

from collections.abc import Callable

from agent.http.message import Request, Response


class Health:
    """Answers `/healthz/live` and `/healthz/ready`.

    `reason` returns why the agent is not ready; empty if it is.
    """

    def __init__(self, reason: Callable[[], str]) -> None:
        self._reason = reason

    async def answer(self, request: Request) -> Response:
        """Answer one request; candidates do not affect readiness, so it does not flap in a rotation."""
        if request.method not in {"GET", "HEAD"}:
            return Response(405, b"method not allowed\n", (("allow", "GET, HEAD"),))
        if request.path == "/healthz/live":
            return Response(200, b"the loop turns\n")
        if request.path == "/healthz/ready":
            reason = self._reason()
            return Response(503 if reason else 200, f"{reason or 'ready'}\n".encode())
        return Response(404, b"not found\n")
