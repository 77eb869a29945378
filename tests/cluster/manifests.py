"""The objects of the trials: an application, and the committed example with what this cluster has in its place."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.images import AGENT_IMAGE
from tests.pki import Leaf

Json = dict[str, Any]
EXAMPLES = Path(__file__).parents[2] / "examples" / "kubernetes"
CERTIFICATE = "app-certificate"
CLOSING = 12
"""Seconds for which the application answers after the deletion of its pod; the example has 35."""

APPLICATION = """
import asyncio, signal, socket
BODY = socket.gethostname().encode()
ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n%s" % (len(BODY), BODY)
async def serve(reader, writer):
    try:
        await reader.readuntil(b"\\r\\n\\r\\n")
        writer.write(ANSWER)
        await writer.drain()
    except (OSError, EOFError):
        pass
    finally:
        writer.close()
async def main():
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with await asyncio.start_server(serve, port=8080, backlog=1024):
        await over.wait()
asyncio.run(main())
"""
"""Answers every request with the pod's name."""


def namespace(name: str, **labels: str) -> Json:
    """Return a namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def certificate(namespace: str, leaf: Leaf) -> Json:
    """Return the secret that the pods mount."""
    return secret(namespace, CERTIFICATE, {"tls.crt": leaf.chain_pem, "tls.key": leaf.key_pem})


def secret(namespace: str, name: str, files: Mapping[str, bytes]) -> Json:
    """Return a secret with these files."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "data": {name: base64.b64encode(content).decode() for name, content in files.items()},
    }


def application(namespace: str, **annotations: str) -> list[Json]:
    """Return a Deployment of the application alone, and its service; an injector adds the rest."""
    labels = {"app": "app"}
    container: Json = {
        "name": "app",
        "image": AGENT_IMAGE,
        "ports": [{"name": "http", "containerPort": 8080}],
        "securityContext": {"runAsUser": 1000},  # not the image's: connections of the proxy's user are not intercepted
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 2},
    }
    _become_ours(container)
    service = {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}
    template = {
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 45},
    }
    deployment = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    named = {"name": "app", "namespace": namespace}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": named, "spec": service},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": named, "spec": deployment},
    ]


def may_send_events(namespace: str) -> list[Json]:
    """Return the rights that the agents need for events, as the example has them."""
    rights = [each for each in example("native-sidecar") if each["kind"] in {"Role", "RoleBinding"}]
    for each in rights:
        each["metadata"]["namespace"] = namespace
    _only(rights, "RoleBinding")["subjects"] = [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}]
    return rights


def example(name: str) -> list[Json]:
    """Return the objects of an example in the namespace of its name.

    A secret is in place of the driver, and our image in place of the application.
    """
    text = (EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8")
    objects = [each for each in yaml.safe_load_all(text) if each]
    for each in objects:
        each["metadata"]["namespace"] = name
        if each["kind"] == "RoleBinding":
            each["subjects"][0]["namespace"] = name
    pod = _only(objects, "Deployment")["spec"]["template"]["spec"]
    pod["volumes"] = [_with_secret(volume) for volume in pod["volumes"]]
    (proxy,) = (each for each in (*pod.get("initContainers", []), *pod["containers"]) if each["name"] == "agent")
    proxy["image"] = AGENT_IMAGE
    proxy["args"] = [_shorter(word) for word in proxy["args"]]
    (application,) = (each for each in pod["containers"] if each["name"] == "app")
    _become_ours(application)
    return objects


def _become_ours(container: Json) -> None:
    """Let a container run the application above."""
    container["image"] = AGENT_IMAGE
    container["command"] = ["python", "-c", APPLICATION]
    container.pop("args", None)
    container["lifecycle"] = {"preStop": {"sleep": {"seconds": CLOSING}}}


def _shorter(word: str) -> str:
    """Drain for less time than the example, which a trial would wait for at each pod."""
    return {"--drain-delay=5s": "--drain-delay=3s", "--stop-deadline=30s": f"--stop-deadline={CLOSING - 2}s"}.get(
        word, word
    )


def _with_secret(volume: Json) -> Json:
    name = volume["name"]
    return {"name": name, "secret": {"secretName": CERTIFICATE}} if name.endswith("certs") else volume


def _only(objects: list[Json], kind: str) -> Json:
    (found,) = (each for each in objects if each["kind"] == kind)
    return found
