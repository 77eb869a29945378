"""Reports why a candidate is not fully loaded: missing resources, control plane, last error."""

import asyncio
import os
from collections.abc import Callable, Sequence

from agent.core.errors import MachineError
from agent.host.sockets import Endpoint
from agent.processes.admission import Admission
from agent.proxies.interface import Subscription, Upstream

_INTERVAL = 1.0  # between checks: a normal rotation is over before the first one
_CONNECT_TIMEOUT = 1.0
_INITIALIZING = frozenset({"PRE_INITIALIZING", "INITIALIZING"})
_NAMED = 3  # maximum number of items in a message


async def observe(admission: Admission, lives: Callable[[], bool], tell: Callable[[str], None]) -> None:
    """Call `tell` whenever the reason why the candidate waits changes, until its gate is open.

    The reason is empty if there is none. `lives` returns whether the candidate still exists.
    """
    said = ""
    while True:
        await asyncio.sleep(_INTERVAL)
        if admission.candidate.gate.is_open or not lives():
            return
        try:
            reason = await reason_of(admission)
        except MachineError:
            reason = ""  # its admin interface does not respond
        if reason != said:
            said = reason
            tell(reason)


async def reason_of(admission: Admission) -> str:
    """Return why the candidate waits; empty if it does not. Raises `MachineError`."""
    admin = admission.candidate.admin
    if await admin.state() not in _INITIALIZING:
        return ""
    missing = await admission.missing()
    if missing:
        return await _describe(admission, missing)
    if names := await admin.waits_for():
        return f"it is initialising {', '.join(names[:_NAMED])}"
    if admission.missing_listeners():
        return f"it has no listener on {admission.described_listeners()} yet, which serves now"
    return ""


async def _describe(admission: Admission, missing: Sequence[Subscription]) -> str:
    configuration = admission.candidate.loaded.configuration
    named = ", ".join(map(str, missing[:_NAMED])) + (" …" if len(missing) > _NAMED else "")
    if missing[0].is_refused:
        refused = f"it refuses {missing[0]}{await admission.why_refused()}"
        planes = " or ".join(configuration.control_planes)
        return f"{refused}; correct it at the control plane {planes}" if planes else refused
    if not configuration.control_planes:
        return f"it waits for {named}"
    upstreams = await admission.candidate.admin.upstreams()
    states = [
        f"the control plane {name} {await _state(upstreams.get(name), missing)}"
        for name in configuration.control_planes
    ]
    return f"it waits for {named}: {'; '.join(states)}"


async def _state(endpoints: Sequence[Upstream] | None, missing: Sequence[Subscription]) -> str:
    """Return the state of a control plane, as the end of a sentence."""
    if endpoints is None:
        return "is no cluster of this configuration"
    if not endpoints:
        return "has no address yet"
    where = ", ".join(each.address for each in endpoints[:_NAMED])
    if any(each.active for each in endpoints):
        closes = any(each.failed for each in missing)
        return f"at {where} is connected and {'its streams are closed repeatedly' if closes else 'does not answer'}"
    if not any(each.failed for each in endpoints):
        return f"at {where} is not connected"
    return f"at {where} cannot be reached: {await _why(endpoints[0].address)}"


async def _why(address: str) -> str:
    """Connect to a control plane and return how that fails: the proxy does not report it."""
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            _, writer = await _connect(address)
    except TimeoutError:
        return f"no answer within {_CONNECT_TIMEOUT:g} s"
    except OSError as error:
        number = error.errno or 0
        if number > 0:
            return os.strerror(number).lower()
        return (error.strerror or str(error)).lower()  # the resolver's numbers are negative
    except ValueError:  # an internal address, which has no port
        return "the agent cannot connect to such an address"
    writer.transport.abort()
    return "it accepts connections, but TLS or HTTP/2 on them fails"


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.startswith(("/", "@")):
        return await asyncio.open_unix_connection(Endpoint.parse(f"unix://{address}").name)  # type: ignore[arg-type]
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port))
