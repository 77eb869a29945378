"""A control plane for the pods of a mesh: it leads each connection on to where its client meant it, over mTLS."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.credentials import NODE_ADDRESS
from tests.cluster.manifests import CERTIFICATE, Json, secret
from tests.pki import Leaf
from tests.system import test_intercepted_restart as intercepted
from tests.system.certificates import authority
from tests.system.plane.plane import ControlPlane, control_plane
from tests.system.pods import PASSTHROUGH
from tests.system.room import Room

ISTIOD = "istiod.istio-system.svc"
PORT = 15012
ALIASES = [{"ip": NODE_ADDRESS, "hostnames": [ISTIOD]}]
"""There is no name server."""


def identity(namespace: str) -> Leaf:
    """Issue a certificate for the application's pods."""
    return authority().issue([f"spiffe://cluster.local/ns/{namespace}/sa/default"])


def certificates(namespace: str, leaf: Leaf) -> Json:
    """Return the secret of a pod's identity, with the names of files that Istio gives them."""
    files = {"cert-chain.pem": leaf.chain_pem, "key.pem": leaf.key_pem, "root-cert.pem": authority().pem}
    return secret(namespace, CERTIFICATE, files)


@contextmanager
def open_control_plane(cluster: Cluster, directory: Path) -> Iterator[ControlPlane]:
    """Run a control plane that all pods reach by the name of Istio's."""
    room = Room(directory, Path("/dev/shm"), PORT, private=True)
    with control_plane(room) as plane:
        plane.listen_at(PORT, NODE_ADDRESS)
        plane.identify_as(ISTIOD)
        plane.listeners(
            intercepted.listener("outbound", 4, 15001, "OUTBOUND"), intercepted.listener("inbound", 4, 15006, "INBOUND")
        )
        plane.clusters(intercepted.cluster("outbound", 4), intercepted.cluster("inbound", 4, PASSTHROUGH[4]))
        plane.start()
        yield plane
