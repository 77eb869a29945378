"""A mutating webhook of the tests around the plan of an injection and its JSON patch, for a real API server."""

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from agent.injection.json_patch import json_patch

from agent.injection.options import InjectionOptions
from agent.injection.planning import InjectionRefused, inject
from tests.cluster.cluster import Cluster
from tests.cluster.credentials import NODE_ADDRESS

Json = dict[str, Any]
PORT = 9443
LABEL = {"istio-injection": "enabled"}


@dataclass
class Reviews:
    """The answers to admission reviews, and how many there were by result."""

    options: InjectionOptions
    results: list[str] = field(default_factory=list)

    def answer(self, review: Json) -> Json:
        """Return the review with its response."""
        request = review["request"]
        response: Json = {"uid": request["uid"], "allowed": True}
        try:
            plan = inject(request["object"], self.options, namespace=request["namespace"])
        except InjectionRefused as refused:
            self.results.append("refused")
            response |= {"allowed": False, "status": {"code": 400, "message": str(refused)}}
        else:
            self.results.append("patched" if plan.edits else "skipped")
            if plan.edits:
                patch = json.dumps(json_patch(plan.edits)).encode()
                response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}
        return {"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response}


@contextmanager
def open_webhook(cluster: Cluster, directory: Path, options: InjectionOptions) -> Iterator[Reviews]:
    """Serve reviews, and register it with the API server, for pods of namespaces with the label."""
    reviews = Reviews(options)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            body = json.dumps(reviews.answer(json.loads(self.rfile.read(length)))).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer((NODE_ADDRESS, PORT), Handler) as server:
        server.socket = _context(cluster, directory).wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        cluster.apply(_registration(cluster))
        try:
            yield reviews
        finally:
            cluster.kubectl("delete", "mutatingwebhookconfiguration", "sidecar-injector")
            server.shutdown()
            thread.join()


def _context(cluster: Cluster, directory: Path) -> ssl.SSLContext:
    leaf = cluster.keys.authority.issue([NODE_ADDRESS])
    path = directory / "webhook.pem"
    path.write_bytes(leaf.chain_pem + leaf.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def _registration(cluster: Cluster) -> Json:
    """Return the registration, as `failurePolicy: Fail` wants it: no pod starts without the sidecar."""
    authority = base64.b64encode(cluster.keys.authority.pem).decode()
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    webhook: Json = {
        "name": "inject.sidecar.test",
        "clientConfig": {"url": f"https://{NODE_ADDRESS}:{PORT}/inject", "caBundle": authority},
        "rules": [rule],
        "namespaceSelector": {"matchLabels": LABEL},
        "failurePolicy": "Fail",
        "reinvocationPolicy": "IfNeeded",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 5,
    }
    named = {"name": "sidecar-injector"}
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    return {**kind, "metadata": named, "webhooks": [webhook]}
