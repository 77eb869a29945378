"""The command lines of the control plane, and of a node's two programs with their configuration files."""

import json
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.binaries import Binaries
from tests.cluster.credentials import API_SERVICE, NODE_ADDRESS, SERVICES, Credentials

ETCD = "http://127.0.0.1:2379"
PAUSE = "localhost/pause:1"


def etcd(binaries: Binaries, state: Path) -> list[str]:
    """Return the command of the store, of one member on loopback."""
    peer = "http://127.0.0.1:2380"
    return [
        str(binaries.path("etcd")),
        f"--data-dir={state / 'etcd'}",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
    ]


def api_server(binaries: Binaries, keys: Credentials) -> list[str]:
    """Return the command of the API server. It reaches services by their endpoints: there is no kube-proxy."""
    return [
        str(binaries.path("kube-apiserver")),
        f"--etcd-servers={ETCD}",
        "--secure-port=443",
        "--bind-address=0.0.0.0",
        f"--advertise-address={NODE_ADDRESS}",
        f"--service-cluster-ip-range={SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--enable-aggregator-routing=true",
        "--allow-privileged=true",
        f"--token-auth-file={keys.path('tokens.csv')}",
        f"--client-ca-file={keys.path('ca.crt')}",
        f"--tls-cert-file={keys.path('api.crt')}",
        f"--tls-private-key-file={keys.path('api.key')}",
        f"--kubelet-client-certificate={keys.path('api-to-kubelet.crt')}",
        f"--kubelet-client-key={keys.path('api-to-kubelet.key')}",
        f"--kubelet-certificate-authority={keys.path('ca.crt')}",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys.path('accounts.crt')}",
        f"--service-account-signing-key-file={keys.path('accounts.key')}",
    ]


def controller_manager(binaries: Binaries, keys: Credentials, configuration: Path) -> list[str]:
    """Return the command of the controllers."""
    return [
        str(binaries.path("kube-controller-manager")),
        f"--kubeconfig={configuration}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--tls-cert-file={keys.path('api.crt')}",
        f"--tls-private-key-file={keys.path('api.key')}",
        f"--root-ca-file={keys.path('ca.crt')}",
        f"--service-account-private-key-file={keys.path('accounts.key')}",
        "--use-service-account-credentials=true",
    ]


def scheduler(binaries: Binaries, keys: Credentials, configuration: Path) -> list[str]:
    """Return the command of the scheduler."""
    return [
        str(binaries.path("kube-scheduler")),
        f"--kubeconfig={configuration}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--tls-cert-file={keys.path('api.crt')}",
        f"--tls-private-key-file={keys.path('api.key')}",
    ]


@dataclass(frozen=True)
class Node:
    """One node: its kubelet and its containerd, with a bridge of their own. `number` tells it from the others."""

    number: int
    state: Path
    cgroup: str
    binaries: Binaries

    @property
    def name(self) -> str:
        """The name of the node."""
        return f"node-{self.number}"

    @property
    def directory(self) -> Path:
        """The directory of its files."""
        return self.state / self.name

    @property
    def socket(self) -> Path:
        """The socket of its containerd; a socket's path must be short."""
        return Path(f"/run/{self.name}/containerd.sock")

    @property
    def health_port(self) -> int:
        """The port of its kubelet's health page."""
        return 10300 + self.number

    def files(self, keys: Credentials) -> dict[str, str]:
        """Return the configuration files below its directory."""
        return {
            "containerd.toml": self._containerd(),
            "kubelet.yaml": json.dumps(self._kubelet(keys)),
            "cni/10-pods.conflist": json.dumps(self._network()),
        }

    def containerd(self) -> list[str]:
        """Return the command of its containerd."""
        return [str(self.binaries.path("containerd")), f"--config={self.directory / 'containerd.toml'}"]

    def kubelet(self, configuration: Path) -> list[str]:
        """Return the command of its kubelet, which authenticates itself by this file."""
        return [
            str(self.binaries.path("kubelet")),
            f"--config={self.directory / 'kubelet.yaml'}",
            f"--kubeconfig={configuration}",
            f"--hostname-override={self.name}",
            f"--node-ip={NODE_ADDRESS}",
            f"--root-dir={self.directory / 'kubelet'}",
            f"--cert-dir={self.directory / 'pki'}",
        ]

    def ctr(self, *words: str | Path) -> list[str | Path]:
        """Return a command of containerd's client, for the images and containers of the kubelet."""
        return [self.binaries.path("ctr"), f"--address={self.socket}", "--namespace=k8s.io", *words]

    def _containerd(self) -> str:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        return f"""
version = 2
root = "{self.directory / "containerd"}"
state = "{self.socket.parent}"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "{self.socket}"
[{cri}]
sandbox_image = "{PAUSE}"
disable_apparmor = true
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
[{cri}.cni]
bin_dir = "{self.binaries.plugins}"
conf_dir = "{self.directory / "cni"}"
[{cri}.containerd]
default_runtime_name = "runc"
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
BinaryName = "{self.binaries.path("runc")}"
SystemdCgroup = false
"""

    def _network(self) -> dict[str, object]:
        addresses = {
            "type": "host-local",
            "dataDir": str(self.directory / "addresses"),
            "ranges": [[{"subnet": f"10.244.{self.number}.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {"type": "bridge", "bridge": f"pods{self.number}", "isGateway": True, "hairpinMode": True}
        return {"cniVersion": "0.4.0", "name": self.name, "plugins": [{**bridge, "ipam": addresses}]}

    def _kubelet(self, keys: Credentials) -> dict[str, object]:
        """The configuration, for a machine with cgroup v1 and perhaps without room; secrets are looked at often."""
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "port": 10250 + self.number,
            "readOnlyPort": 0,
            "healthzPort": self.health_port,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": keys.path("ca.crt")},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "tlsCertFile": keys.path("kubelet.crt"),
            "tlsPrivateKeyFile": keys.path("kubelet.key"),
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "podLogsDir": str(self.directory / "logs"),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"{self.cgroup}/{self.name}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "resolvConf": "",
            "clusterDNS": [API_SERVICE.removesuffix(".1") + ".10"],
            "clusterDomain": "cluster.local",
            "syncFrequency": "2s",
            "nodeStatusUpdateFrequency": "2s",
        }
