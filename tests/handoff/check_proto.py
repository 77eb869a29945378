"""Checks that the generated module is protoc's output for the .proto file: `python -m tests.handoff.check_proto`."""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROTO = "agent/handoff/hot_restart.proto"
MADE = ("agent/handoff/hot_restart_pb2.py", "agent/handoff/hot_restart_pb2.pyi")


def main() -> int:
    """Exit with 1 and name the command that regenerates a file, if one is out of date."""
    with tempfile.TemporaryDirectory() as scratch:
        protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={scratch}", f"--pyi_out={scratch}"]
        subprocess.run([*protoc, PROTO], cwd=ROOT, check=True)
        stale = [name for name in MADE if (Path(scratch) / name).read_bytes() != (ROOT / name).read_bytes()]
    if stale:
        command = f"python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. {PROTO}"
        sys.stderr.write(f"out of date: {', '.join(stale)}; run: {command}\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
