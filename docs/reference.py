"""Generates reference.md, the man pages, the Grafana dashboard, and parts of the examples.

`python docs/reference.py` writes them; with `--check` it names those that are not up to date and exits with 1.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from docs.generator.kubernetes import monitoring_files  # noqa: E402  # found by the line above
from docs.generator.man_pages import agent_page, service_page, sidecar_page  # noqa: E402
from docs.generator.reference_page import reference_page  # noqa: E402
from docs.generator.webhook_manifests import webhook_files  # noqa: E402


def documents() -> dict[Path, str]:
    """Return the content of every generated file."""
    return {
        ROOT / "docs/reference.md": reference_page(ROOT / "agent"),
        ROOT / "docs/man/agent.1": agent_page(),
        ROOT / "docs/man/sidecar.1": sidecar_page(),
        ROOT / "docs/man/agent.service.8": service_page(ROOT / "systemd"),
        **monitoring_files(ROOT),
        **webhook_files(ROOT),
    }


def stale() -> list[str]:
    """Return the names of the files that differ from what the code says."""
    return [
        path.relative_to(ROOT).as_posix()
        for path, text in documents().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def write() -> None:
    """Write every generated file."""
    for path, text in documents().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Write or check; return the exit code."""
    if not arguments:
        write()
        return 0
    if arguments != ["--check"]:
        sys.stderr.write("usage: python docs/reference.py [--check]\n")
        return 2
    names = stale()
    if names:
        sys.stderr.write(f"not up to date: {', '.join(names)}; run python docs/reference.py\n")
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
