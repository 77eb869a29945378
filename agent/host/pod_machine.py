"""Answers what `agent.istio` asks of the machine: files, addresses, names."""

import os
from pathlib import Path

from agent.core.errors import UsageError
from agent.host.own_addresses import first_address, own_addresses
from agent.istio.given import Machine

ADDRESS_TIMEOUT = 5.0  # seconds until an interface has an address, or a name server an answer


def machine() -> Machine:
    """Return the answers of this machine."""
    return Machine(
        _text_of,
        os.path.exists,
        lambda is_needed: own_addresses(ADDRESS_TIMEOUT if is_needed else 0.0),
        lambda host: first_address(host, ADDRESS_TIMEOUT),
    )


def _text_of(path: str) -> str | None:
    """Return a file's text, None if there is none. Raises `UsageError` if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        message = f"cannot read {path}: {reason}"
        raise UsageError(message) from None
