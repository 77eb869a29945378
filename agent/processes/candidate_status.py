"""Reports why a candidate is not fully loaded: missing resources, control plane, last error."""

import asyncio
import os
from collections.abc import Callable, Sequence

from agent.core.errors import MachineError
from agent.host.sockets import Endpoint
from agent.processes.admission import Admission
from agent.processes.epoch_process import EpochProcess
from agent.proxies.interface import Subscription, Upstream

_INTERVAL = 1.0  # between checks: a normal rotation is over before the first one
_CONNECT_TIMEOUT = 1.0
_INITIALIZING = frozenset({"PRE_INITIALIZING", "INITIALIZING"})
_UNTESTED = "UNTESTED"
_NAMED = 3  # maximum number of items in a message


async def observe(
    admission: Admission, lives: Callable[[], bool], tell: Callable[[str], None], deadline: float
) -> None:
    """Call `tell` whenever the reason why the candidate waits changes, until its gate is open.

    The reason is empty if there is none. `lives` returns whether the candidate still exists. The first reason comes
    well before the start `deadline`, in seconds, at which a candidate without one is dropped.
    """
    said, interval = "", min(_INTERVAL, deadline / 3)
    while True:
        await asyncio.sleep(interval)
        if admission.candidate.link.is_open or not lives():
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
    state = await admin.state()
    if state == _UNTESTED:
        return "; ".join(await admin.waits_for())
    if state not in _INITIALIZING:
        return ""
    missing = await admission.missing()
    unanswered = [] if admission.serving() is not None else await admission.unanswered()
    if missing:
        return await _describe(admission, [*missing, *(each for each in unanswered if each not in missing)])
    if names := await admin.waits_for():
        return f"it is initialising {', '.join(names[:_NAMED])}"
    if admission.missing_listeners():
        return f"it has no listener on {admission.described_listeners()} yet, which serves now"
    return await _describe(admission, unanswered) if unanswered else ""


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
        f"the control plane {name} {await _state(admission.candidate, name, upstreams.get(name), missing)}"
        for name in configuration.control_planes
    ]
    return f"it waits for {named}: {'; '.join(states)}"


async def _state(
    candidate: EpochProcess, name: str, endpoints: Sequence[Upstream] | None, missing: Sequence[Subscription]
) -> str:
    """Return the state of a control plane, as the end of a sentence."""
    configured = candidate.loaded.configuration.address_of(name)
    if endpoints is None:
        if configured != name:
            return "is no cluster of this configuration"
        return await _tried(name)
    if not endpoints:
        unresolved = "" if configured is None else f" ({configured}): {await _why_unresolved(configured)}"
        return f"has no address yet{unresolved}"
    where = ", ".join(map(str, endpoints[:_NAMED]))
    if any(each.active for each in endpoints):
        closes = any(each.failed for each in missing)
        return f"at {where} is connected and {'its streams are closed repeatedly' if closes else 'does not answer'}"
    if not (failed := sum(each.failed for each in endpoints)):
        return f"at {where} is not connected"
    return f"at {where} cannot be reached: {await _why(candidate, name, endpoints[0].address)} ({_attempts(failed)})"


def _attempts(failed: int) -> str:
    """Return how often it failed: a power of two, because each change of a reason is logged."""
    return "once" if failed == 1 else f"at least {1 << (failed.bit_length() - 1)} times"


async def _tried(address: str) -> str:
    """Return the state of a control plane of which the admin interface has no endpoints (Google gRPC)."""
    return f"cannot be reached: {error}" if (error := await _connect_error(address)) else "does not answer"


async def _why_unresolved(address: str) -> str:
    return await _connect_error(address) or "the proxy has not resolved it yet"


async def _why(candidate: EpochProcess, name: str, address: str) -> str:
    """Connect to a control plane and return how that fails: the proxy does not report it."""
    if error := await _connect_error(address):
        return error
    failures = await candidate.admin.connect_failures(name)
    if failures.untrusted:
        return "its certificate fails the verification that the configuration demands"
    if failures.unanswered and not failures.tls:
        return "it accepts connections and does not answer on them"
    # gRPC's own server ends such a connection without an alert, so nothing counts it.
    return "it accepts connections, but TLS or HTTP/2 on them fails, as if it refused the client certificate"


async def _connect_error(address: str) -> str:
    """Connect to an address; return why that fails, empty if it does not."""
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
    return ""


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.startswith(("/", "@")):
        return await asyncio.open_unix_connection(Endpoint.parse(f"unix://{address}").name)  # type: ignore[arg-type]
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port))
