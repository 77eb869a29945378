"""Log levels of the flags."""

import pytest

from agent.core.errors import UsageError
from agent.istio.log_levels import agent_level, proxy_levels


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("default:info", "info"),
        ("default:warn,ads:debug", "warning"),
        ("ads:debug", None),
        ("debug", "debug"),
        ("all:error", "error"),
        ("default:none", "error"),
        ("default:fatal", "error"),
        ("", None),
        ("default:info,default:debug", "debug"),
    ],
)
def test_the_scope_default_is_the_agents(text: str, level: str | None) -> None:
    assert agent_level(text) == level


def test_another_word_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot use --log_output_level: 'loud' is not a level"):
        agent_level("default:loud")


@pytest.mark.parametrize(
    ("text", "components", "levels"),
    [
        ("warning", "misc:error", ("warning", "misc:error")),
        ("info,misc:error,upstream:debug", "", ("info", "misc:error,upstream:debug")),
        ("misc:error", "", ("warning", "misc:error")),
        ("", "", ("warning", "")),
        ("debug,misc:error", "http:info", ("debug", "misc:error,http:info")),
    ],
)
def test_levels_of_components_are_set_apart(text: str, components: str, levels: tuple[str, str]) -> None:
    assert proxy_levels(text, components) == levels
