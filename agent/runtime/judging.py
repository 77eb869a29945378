"""The judgement at the gate: whether the candidate is whole, and is what was judged good on the disk."""

import asyncio
from collections.abc import Iterable

from tenacity import AsyncRetrying, retry_if_result, wait_exponential

from agent.core.events import Failure, Sort
from agent.dialects.configuration import Configuration
from agent.dialects.console import Loaded
from agent.runtime.living import Living
from agent.runtime.ports import Ports

_WAITING = AsyncRetrying(
    retry=retry_if_result(lambda whole: not whole), wait=wait_exponential(multiplier=0.01, max=0.25)
)


async def judge(candidate: Living, before: Configuration | None, ports: Ports) -> Failure | None:
    """Examine a candidate that knocked at the gate; None if it is good. Raises `MachineError` if it does not answer.

    Knocking means that its own routes are asked for, not that the rest has come: clusters and listeners by xDS may
    still be on their way, and are waited for. The start deadline ends that, not this function.
    """
    console = candidate.console
    whole, loaded = await asyncio.gather(console.waits_only_for_gate(), console.certificates())
    if not whole:
        await _WAITING.copy()(console.waits_only_for_gate)
        loaded = await console.certificates()
    return _wrong_certificate(candidate, loaded) or _missing_listener(candidate, before, ports)


def _wrong_certificate(candidate: Living, loaded: Iterable[Loaded]) -> Failure | None:
    """What it has loaded from memory must be what was put there."""
    material = candidate.material
    expected = {
        f"/dev/fd/{material.descriptors[chain.path]}": chain
        for unit in material.outcome.units.values()
        for chain in unit.chains
    }
    for certificate in loaded:
        chain = expected.get(certificate.path)
        if chain is not None and certificate.serial not in {each.serial_number for each in chain.certificates}:
            reason = f"it loaded serial {certificate.serial:x} where {chain.path} has {chain.leaf.serial_hex}"
            return Failure(Sort.ACCIDENT, f"epoch {candidate.number} is not what was judged: {reason}")
    return None


def _missing_listener(candidate: Living, before: Configuration | None, ports: Ports) -> Failure | None:
    """An empty shell, whose control plane did not answer, says that it is ready like any other."""
    missing = ports.missing(candidate, before)
    if not missing:
        return None
    names = ", ".join(place.address for place in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    reason = f"epoch {candidate.number} does not listen on {names}{more}, which serves now; is its control plane well?"
    return Failure(Sort.ACCIDENT, reason)
