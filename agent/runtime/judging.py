"""The judgement at the gate: whether the candidate is whole, and is what was judged good on the disk."""

from tenacity import AsyncRetrying, retry_if_result, wait_exponential

from agent.core.events import Failure, Sort
from agent.dialects.configuration import Configuration
from agent.runtime.living import Living
from agent.runtime.ports import Ports

_SOONEST = 0.01
_LATEST = 0.25


async def judge(candidate: Living, before: Configuration | None, ports: Ports) -> Failure | None:
    """Examine a candidate that knocked at the gate; None if it is good. Raises `MachineError` if it does not answer.

    Knocking means that its own routes are asked for, not that the rest has come: clusters and listeners by xDS may
    still be on their way, and are waited for. The start deadline ends that, not this function.
    """
    waiting = AsyncRetrying(
        retry=retry_if_result(lambda whole: not whole), wait=wait_exponential(multiplier=_SOONEST, max=_LATEST)
    )
    await waiting(candidate.console.waits_only_for_gate)
    return await _wrong_certificate(candidate) or _missing_listener(candidate, before, ports)


async def _wrong_certificate(candidate: Living) -> Failure | None:
    """What it has loaded from memory must be what was put there."""
    material = candidate.material
    expected = {
        f"/dev/fd/{material.descriptors[chain.path]}": chain
        for unit in material.outcome.units.values()
        for chain in unit.chains
    }
    for loaded in await candidate.console.certificates():
        chain = expected.get(loaded.path)
        if chain is not None and loaded.serial not in {each.serial_number for each in chain.certificates}:
            reason = f"it loaded serial {loaded.serial:x} where {chain.path} has {chain.leaf.serial_hex}"
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
