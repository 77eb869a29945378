"""Plans of a bootstrap, for tests."""

from typing import Any

from agent.istio import node, proxy_config
from agent.istio.bootstrap import Plan
from agent.istio.discovery import ControlPlane, Files
from agent.istio.pod import Addresses, Pod

FILES = Files("/c/chain.pem", "/c/key.pem", "/c/roots.pem")


def plan(*addresses: str, secure: bool = False, **more: Any) -> Plan:  # noqa: ANN401  # fields of a plan
    """Return a plan of a sidecar in the pod web-1 of the namespace shop."""
    known = Addresses.parse(addresses or ("10.0.0.7",), "it")
    pod = Pod({"POD_NAME": "web-1", "POD_NAMESPACE": "shop"}, {"istio-locality": "r/z"})
    made = node.make("sidecar", pod, known, proxy_config.read(None, None, {}), {"cluster": "web"})
    plane = ControlPlane("istiod", 15012, FILES if secure else None, (("DNS", "istiod"),))
    return Plan(made, known, plane, **more)


def found(document: object, *path: str | int) -> Any:  # noqa: ANN401  # of any type
    """Return what lies at a path of keys and positions."""
    for key in path:
        document = document[key]  # type: ignore[index]
    return document
