"""Images without a registry: archives in OCI layout, of a directory each, for `ctr images import`."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from agent import __version__

ROOT = Path(__file__).parents[2]
ENVIRONMENT = Path("/srv/agent")
USER = "1337:1337"
AGENT_IMAGE = f"docker.io/library/proxy-agent:{__version__}"
ENVOY_IMAGE = f"docker.io/library/proxy-agent-envoy:{__version__}"
MEDIA = "application/vnd.oci.image"

PAUSE = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"
"""The first process of each pod, which keeps its network; SIGKILL ends it."""

BUILD = f"""
python=$1; wheels=$2; destination=$3; shift 3
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs {ENVIRONMENT.parent}
"$python" -m venv --without-pip {ENVIRONMENT}
pip="$python -m pip --disable-pip-version-check --quiet --python {ENVIRONMENT}/bin/python install --no-index --no-deps"
$pip --no-compile "$wheels"/*.whl
"$python" examples/container/rootfs.py {ENVIRONMENT} "$destination/agent"
"""
"""Makes the root of an image of wheels, as the Containerfile does, in a mount namespace of its own."""


@dataclass(frozen=True)
class Image:
    """A directory that becomes an image. `program` is its entry point."""

    name: str
    root: Path
    program: str
    user: str = USER
    environment: tuple[str, ...] = ()

    def archive(self, path: Path) -> Path:
        """Write the image with one layer."""
        layer = path.with_suffix(".layer")
        with tarfile.open(layer, "w") as files:
            files.add(self.root, arcname=".", filter=_owned_by_root)
        with tarfile.open(path, "w") as files:
            digest, size = _digest(layer)
            files.add(layer, arcname=f"blobs/sha256/{digest}")
            configuration = _put(files, "config.v1+json", self._configuration(digest))
            layers = [{"mediaType": f"{MEDIA}.layer.v1.tar", "digest": f"sha256:{digest}", "size": size}]
            document = {"schemaVersion": 2, "config": configuration, "layers": layers}
            manifest = _put(files, "manifest.v1+json", document)
            named = {**manifest, "annotations": {"io.containerd.image.name": self.name}}
            _add(files, "index.json", json.dumps({"schemaVersion": 2, "manifests": [named]}).encode())
            _add(files, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        layer.unlink()
        return path

    def _configuration(self, digest: str) -> dict[str, object]:
        run = {"Entrypoint": [self.program], "User": self.user, "Env": list(self.environment), "StopSignal": "SIGTERM"}
        files = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
        return {"architecture": "amd64", "os": "linux", "config": run, "rootfs": files}


def pause_image(name: str, directory: Path) -> Image:
    """Return the image of a program that does nothing."""
    root = directory / "pause"
    root.mkdir()
    command = ["cc", "-static", "-O2", "-x", "c", "-o", str(root / "pause"), "-"]
    subprocess.run(command, input=PAUSE.encode(), check=True, timeout=100)
    return Image(name, root, "/pause", user="65535:65535")


def agent_images(directory: Path) -> list[Image]:
    """Return this checkout's two images, of one root: with nft, which an init container uses, and Envoy in both."""
    wheels = directory / "wheels"
    for name in ("agent", "envoy"):
        _pip("wheel", "--wheel-dir", wheels, "--require-hashes", "--requirement", f"requirements/{name}.txt")
    _pip("wheel", "--wheel-dir", wheels, ".")
    _run("unshare", "--mount", "sh", "-ec", BUILD, "sh", sys._base_executable, wheels, directory)  # type: ignore[attr-defined]
    root = directory / "agent"
    add_program(root, "nft")
    settings = (f"PATH={ENVIRONMENT}/bin:/usr/sbin", "PYTHONDONTWRITEBYTECODE=1")
    names = {AGENT_IMAGE: "sidecar", ENVOY_IMAGE: "envoy"}
    return [
        Image(name, root, f"{ENVIRONMENT}/bin/agent", environment=(*settings, f"AGENT_PROXY_BIN={proxy}"))
        for name, proxy in names.items()
    ]


def add_program(root: Path, name: str) -> None:
    """Copy a program of this machine and its libraries into the root of an image."""
    path = shutil.which(name)
    assert path is not None, f"there is no {name} here"
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True, timeout=100).stdout
    for file in [path, *re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listed, re.MULTILINE)]:
        target = root / Path(file).relative_to("/")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
    _run("ldconfig", "-r", root)


def _pip(*arguments: str | Path) -> None:
    quietly = ("--disable-pip-version-check", "--quiet")
    _run(sys.executable, "-m", "pip", *quietly, *arguments, "--no-deps", "--no-build-isolation")


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    return member


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size


def _put(files: tarfile.TarFile, kind: str, document: dict[str, object]) -> dict[str, object]:
    """Add a document as a blob and return its descriptor."""
    content = json.dumps(document).encode()
    digest = hashlib.sha256(content).hexdigest()
    _add(files, f"blobs/sha256/{digest}", content)
    return {"mediaType": f"{MEDIA}.{kind}", "digest": f"sha256:{digest}", "size": len(content)}


def _add(files: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    files.addfile(member, io.BytesIO(content))
