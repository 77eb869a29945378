"""The objects of the trials: an application, and the committed example with what this cluster has in its place."""

import base64
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.images import AGENT_IMAGE
from tests.pki import Leaf

Json = dict[str, Any]
EXAMPLES = Path(__file__).parents[2] / "examples" / "kubernetes"
TRIAL_NAMESPACE = "trial"
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


def certificate(leaf: Leaf) -> Json:
    """Return the secret that the pods mount."""
    data = {"tls.crt": leaf.chain_pem, "tls.key": leaf.key_pem}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": CERTIFICATE, "namespace": TRIAL_NAMESPACE},
        "type": "kubernetes.io/tls",
        "data": {name: base64.b64encode(content).decode() for name, content in data.items()},
    }


def example(name: str) -> list[Json]:
    """Return the objects of an example, with a secret in place of the driver, and our image as the application."""
    objects = [each for each in yaml.safe_load_all((EXAMPLES / name).read_text(encoding="utf-8")) if each]
    for each in objects:
        each["metadata"]["namespace"] = TRIAL_NAMESPACE
        if each["kind"] == "RoleBinding":
            each["subjects"][0]["namespace"] = TRIAL_NAMESPACE
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
    return {"name": volume["name"], "secret": {"secretName": CERTIFICATE}} if "csi" in volume else volume


def _only(objects: list[Json], kind: str) -> Json:
    (found,) = (each for each in objects if each["kind"] == kind)
    return found
