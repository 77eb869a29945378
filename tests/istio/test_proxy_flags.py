"""What is said of flags without an effect."""

from agent.istio import go_flags, proxy_flags


def warnings(*words: str) -> list[str]:
    return list(proxy_flags.warnings(go_flags.parse(words, proxy_flags.FLAGS)))


def test_flags_that_become_something_are_not_mentioned() -> None:
    assert warnings("--drainDuration", "45s", "--log_as_json", "--serviceregistry=Kubernetes") == []


def test_harmless_flags_are_not_mentioned() -> None:
    assert warnings("--profiling=false", "--log_rotate", "/x", "--vklog=9", "--log_caller=all") == []


def test_one_line_names_all_for_which_an_override_can_do_the_same() -> None:
    [warning] = warnings("--lightstepAddress=a:1", "--lightstepAccessToken=hush", "--datadogAgentAddress", "d:2")
    assert warning == (
        "no effect here: --lightstepAddress, --lightstepAccessToken, --datadogAgentAddress; a file in"
        " ISTIO_BOOTSTRAP_OVERRIDE can configure the same"
    )


def test_values_that_ask_for_nothing_are_not_mentioned() -> None:
    assert warnings("--stsPort=0", "--controlPlaneBootstrap=true", "--tokenManagerPlugin=") == []
    assert warnings("--stsPort=15463", "--controlPlaneBootstrap=false", "--serviceregistry=Consul") == [
        "no effect here: --controlPlaneBootstrap, --stsPort, --serviceregistry"
    ]


def test_logs_go_to_standard_error_only() -> None:
    assert warnings("--log_target=stdout", "--log_target=stderr") == []
    assert warnings("--log_target=/var/log/x") == [
        "no effect here: --log_target; the agent logs to standard error only"
    ]


def test_an_unknown_flag_is_named_with_what_it_took() -> None:
    assert warnings("--new", "router") == [
        "the unknown flag --new is ignored, and 'router' as its value, as pilot-agent does; write --new=VALUE"
    ]
    assert warnings("--new=x") == ["the unknown flag --new is ignored"]


def test_no_value_of_a_secret_is_shown() -> None:
    [warning] = warnings("--accessToken", "hush")
    assert "hush" not in warning
    [warning] = warnings("--clientSecret", "hush")
    assert "hush" not in warning
