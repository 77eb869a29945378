import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import UsageError
from agent.proxies.server.placeholders import Placeholder, placeholders, replaced, require_known

WORDS = st.text(st.characters(blacklist_characters="{}", blacklist_categories=["Cs"]))
NAMES = st.text(st.characters(categories=["L", "N"], include_characters="/._-"), min_size=1)
KINDS = st.sampled_from(["fd", "cert", "key", "file"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{fd:web}", [("fd", "web")]),
        ("fd://{fd:web}", [("fd", "web")]),
        ("--pair={cert:site},{key:site}", [("cert", "site"), ("key", "site")]),
        ("{cert} {key}", [("cert", ""), ("key", "")]),
        ("{file:/etc/dh params.pem}", []),
        ("{file:/etc/dh.pem}", [("file", "/etc/dh.pem")]),
        ("{config}", [("config", "")]),
        ("{{fd:web}}", [("fd", "web")]),
        ("{host} {fd web} { fd:web } {certs:a}", []),
    ],
)
def test_what_is_a_placeholder_in_arguments(text: str, found: list[tuple[str, str]]) -> None:
    assert [(each.kind, each.name) for each in placeholders([text])] == found


@pytest.mark.parametrize("text", ["{file}", "{key}", "{cert}", "{config}", "{config:x}", "{fd}"])
def test_a_configuration_may_have_words_in_braces_of_its_own(text: str) -> None:
    """As Caddy's `{file}`."""
    assert list(placeholders([text], of_configuration=True)) == []
    assert replaced(text, lambda _: "", of_configuration=True) == text


@given(WORDS, KINDS, NAMES, WORDS)
def test_everything_but_the_placeholder_stays(before: str, kind: str, name: str, after: str) -> None:
    for of_configuration in (False, True):
        text = f"{before}{{{kind}:{name}}}{after}"
        changed = replaced(text, lambda each: f"<{each.kind} {each.name}>", of_configuration=of_configuration)
        assert changed == f"{before}<{kind} {name}>{after}"


def test_it_prints_as_it_was_written() -> None:
    assert [str(each) for each in placeholders(["{cert} {key:a} {fd:web}"])] == ["{cert}", "{key:a}", "{fd:web}"]


def test_a_name_with_a_slash_is_a_path() -> None:
    assert Placeholder("cert", "/etc/a.pem").is_path
    assert not Placeholder("cert", "a").is_path


@pytest.mark.parametrize(
    ("placeholder", "why"),
    [
        (Placeholder("fd", "wbe"), "cannot use {fd:wbe}: there is no listener of that name; the names given by"),
        (Placeholder("fd", ""), "the names given by --listen are: web, admin"),
        (Placeholder("config", ""), "cannot use {config}: there is no configuration; name one by --config"),
        (Placeholder("file", "dh.pem"), "cannot use {file:dh.pem}: it is no path; write an absolute one"),
    ],
)
def test_one_that_nothing_can_replace_is_refused(placeholder: Placeholder, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        require_known([placeholder], ["web", "admin"], has_config=False)
    assert why in str(caught.value)


def test_known_ones_are_taken() -> None:
    known = placeholders(["{fd:web} {config} {file:/a} {cert} {key:x}"])
    require_known(known, ["web"], has_config=True)
