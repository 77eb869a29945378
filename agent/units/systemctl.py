"""Questions to the systemd that runs on this machine."""

import re
import subprocess
from pathlib import Path

from agent.core.errors import MachineError
from agent.units import UNITS

_BOOTED = Path("/run/systemd/system")  # sd_booted(3)
_TIMEOUT = 30.0  # seconds
_STATES = "--state=active,activating,reloading,deactivating"


def runs() -> bool:
    """Return whether systemd is the service manager here."""
    return _BOOTED.is_dir()


def version() -> int:
    """Return the version of systemd. Raises `MachineError`."""
    found = re.match(r"systemd (\d+)", _ask("--version"))
    if found is None:
        message = "cannot read the version of systemd from systemctl --version"
        raise MachineError(message)
    return int(found[1])


def active() -> list[str]:
    """Return the units of ours that are not stopped. Raises `MachineError`."""
    patterns = [name.replace("@.", "@*.") for name in UNITS]
    lines = _ask("list-units", "--plain", "--no-legend", "--no-pager", _STATES, "--", *patterns).splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def _ask(*words: str) -> str:
    try:
        return subprocess.run(
            ["systemctl", *words],  # noqa: S607  # the one in PATH
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=True,
        ).stdout
    except subprocess.CalledProcessError as error:
        message = f"cannot ask systemd: systemctl {words[0]} exits with {error.returncode}: {error.stderr.strip()}"
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"cannot ask systemd: {error}"
    raise MachineError(message)
