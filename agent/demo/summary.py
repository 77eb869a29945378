"""The demonstration's result in a few lines."""

from agent.demo.captions import plural, span
from agent.demo.faults import BAD_CERTIFICATE, BAD_KEY, FREEZE, KILL, KILLED_CANDIDATE
from agent.demo.results import Results

_FAULTS = (KILL, BAD_CERTIFICATE, BAD_KEY, KILLED_CANDIDATE, FREEZE)


def summary(score: Results) -> tuple[list[str], bool]:
    """Return the lines, and whether the demonstration proved that nothing fails."""
    lines = [f"{plural(score.served, 'request')} on {plural(score.connections, 'connection')}, failed: {score.failed}"]
    if score.failed:
        lines.append(", ".join(f"{count:,} {reason}" for reason, count in score.reasons.most_common()))
    if score.kills:
        lines.append(
            f"{score.cut:,} cut with {_the_proxy(len(score.kills))}{'' if score.failed else ', no client refused'}"
        )
    lines += [_rotations(score), _faults(score), _waits(score)]
    if nothing := score.proves_nothing():
        lines.append(f"this proves nothing: {nothing}")
    return [line for line in lines if line], not score.failed and not nothing


def _the_proxy(kills: int) -> str:
    return "the proxy that was killed" if kills == 1 else f"the {kills} proxies that were killed"


def _rotations(score: Results) -> str:
    if score.typical is None:
        return f"{plural(len(score.rotations), 'rotation')}, none of them seen by a client"
    overtaken = f", {score.overtaken} overtaken by the next" if score.overtaken else ""
    spans = f"{span(score.typical)} from write to first handshake (median; longest {span(max(score.spans))})"
    return f"{plural(len(score.rotations), 'rotation')}{overtaken}: {spans}"


def _faults(score: Results) -> str:
    return ", ".join(plural(score.faults[name], name) for name in _FAULTS if score.faults[name])


def _waits(score: Results) -> str:
    deepest = "" if score.deepest is None else f", deepest accept queue {plural(score.deepest, 'client')}"
    return f"longest wait {span(score.longest)}{deepest}"
