"""Log levels as pilot-agent's flags have them, for the agent and for Envoy."""

from agent.core.errors import UsageError

_AGENT = {
    "debug": "debug", "info": "info", "warn": "warning", "warning": "warning", "error": "error", "fatal": "error",
    "none": "error",
}  # fmt: skip
_PROXY = "warning"


def agent_level(text: str) -> str | None:
    """Return the agent's level in `default:info,ads:debug` or `info`; None if it names none.

    Raises `UsageError` for another word.
    """
    level = None
    for part in filter(None, text.split(",")):
        scope, colon, word = part.strip().rpartition(":")
        if colon and scope not in {"default", "all"}:
            continue
        if word not in _AGENT:
            message = f"cannot use --log_output_level: {word!r} is not a level; the levels are {', '.join(_AGENT)}"
            raise UsageError(message)
        level = _AGENT[word]
    return level


def proxy_levels(text: str, components: str) -> tuple[str, str]:
    """Return the level and the components' levels of `info,misc:error`, beside further components."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    levels = [part for part in parts if ":" not in part]
    scoped = [part for part in [*parts, components] if ":" in part]
    return levels[-1] if levels else _PROXY, ",".join(scoped)
