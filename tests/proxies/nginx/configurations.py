"""Configurations of the tests, and the real NGINX that judges them."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.host.files import matching
from agent.inputs.wildcards import is_wildcard
from agent.proxies.nginx.configuration import Configuration
from tests.system.eventually import PATIENCE
from tests.system.nginxes import nginx_binary

wants_nginx = pytest.mark.skipif(nginx_binary() is None, reason="no nginx")


def parsed(text: str, resources: Mapping[str, bytes] | None = None) -> Configuration:
    """Return a configuration in /etc/nginx."""
    return Configuration(text, "/etc/nginx/nginx.conf", "/", resources or {})


def loaded(path: Path) -> Configuration:
    """Return the configuration of a file with all that it includes, as the agent's loader reads it."""
    resources: dict[str, bytes] = {}
    while True:
        made = Configuration(path.read_text(encoding="utf-8"), str(path), "/", resources)
        if not made.unread:
            return made
        for name in made.unread:
            listed = is_wildcard(name)
            resources[name] = "\n".join(matching(name)).encode() if listed else Path(name).read_bytes()


def accepts(path: Path) -> tuple[bool, str]:
    """Let NGINX check a configuration; return whether it accepts it, and its output."""
    binary = nginx_binary()
    assert binary is not None
    done = subprocess.run(
        [binary, "-t", "-q", "-c", path, "-e", "stderr", "-g", "pid /dev/null;"],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        close_fds=False,
    )
    return done.returncode == 0, done.stderr.decode()


def memory(data: bytes) -> int:
    """Return a descriptor of these bytes, which NGINX inherits."""
    descriptor = os.memfd_create("test", 0)
    os.write(descriptor, data)
    return descriptor
