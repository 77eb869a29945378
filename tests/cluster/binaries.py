"""The programs of a cluster, in the directory that `AGENT_CLUSTER_BIN` names. None is part of the product."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.system.namespaces import may_have_networks

VARIABLE = "AGENT_CLUSTER_BIN"
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE = ("kubelet", "containerd", "containerd-shim-runc-v2", "ctr", "runc")
PLUGINS = ("bridge", "host-local", "loopback")
OF_THE_MACHINE = ("cc", "ip", "mount", "nft", "nsenter", "unshare")


@dataclass(frozen=True)
class Binaries:
    """A directory with the programs, and below it `cni` with the network plugins."""

    directory: Path

    @property
    def plugins(self) -> Path:
        """The directory of the network plugins."""
        return self.directory / "cni"

    def path(self, name: str) -> Path:
        """Return the path of a program."""
        return self.directory / name

    def search_path(self) -> str:
        """Return a PATH with these programs before those of the machine."""
        return f"{self.directory}:/usr/sbin:/usr/bin:/sbin:/bin"

    def missing(self) -> list[str]:
        """List the programs that the directory lacks."""
        wanted = [self.path(name) for name in (*CONTROL_PLANE, *NODE, "kubectl")]
        wanted += [self.plugins / name for name in PLUGINS]
        return [str(path.relative_to(self.directory)) for path in wanted if not os.access(path, os.X_OK)]


def find() -> Binaries | str:
    """Return the programs, or the reason why no cluster can be started here."""
    named = os.environ.get(VARIABLE)
    if not named:
        return f"{VARIABLE} names no directory with the programs of Kubernetes: see CONTRIBUTING.md, Cluster"
    binaries = Binaries(Path(named).resolve())
    if missing := binaries.missing():
        return f"{VARIABLE}={named} lacks {', '.join(missing)}: see CONTRIBUTING.md, Cluster"
    if lacking := [name for name in OF_THE_MACHINE if shutil.which(name) is None]:
        return f"there is no {', '.join(lacking)} here"
    return binaries if may_have_networks() else "wants root with CAP_SYS_ADMIN"
