"""The content of `/metrics`: always valid, counters that never fall, and the numbers that clients counted."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as of_openmetrics
from prometheus_client.parser import text_string_to_metric_families as of_text

from tests.system.agent_fixture import AgentFixture
from tests.system.bootstrap import http, listener
from tests.system.counts import count
from tests.system.eventually import PATIENCE, eventually
from tests.system.loads import Loads, Report
from tests.system.proxies import Reply
from tests.system.room import kill
from tests.system.stand_ins import script
from tests.system.status_pollers import Onlooker, ask, overview
from tests.system.wire import Target, connect, exchange, tls_context

ROTATIONS = count("AGENT_ROTATIONS", short=5, long=50)
CRASHES = count("AGENT_CRASHES", short=2, long=5)
HELD = 5
SLEEP = 1
EVERY = 0.1
OURS = "proxy_agent_"
PER_PROCESS = "process_"  # of the agent, which may be another one
TYPE = re.compile(r"^# TYPE (\S+)", re.MULTILINE)

Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]

# As the parser names them: it adds OpenMetrics' suffix to every counter.
_HTTP = ("envoy_http_conn_manager_prefix", "http")
ANSWERED = ("envoy_http_downstream_rq_xx_total", (_HTTP, ("envoy_response_code_class", "2")))
BEGUN = ("envoy_http_downstream_rq_total", (_HTTP,))


def values(families: Iterable[Metric], kinds: frozenset[str] | None = None) -> Samples:
    """Flatten families, of these kinds if any are named; a duplicate series is an error."""
    found: Samples = {}
    for family in families:
        if kinds is not None and family.type not in kinds:
            continue
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, f"{key} is told twice"
            found[key] = sample.value
    return found


COUNTERS = frozenset({"counter", "histogram"})


class Scraper:
    """Scrapes like Prometheus, ten times a second, and records counters that fell."""

    def __init__(self, instance: AgentFixture) -> None:
        self.instance = instance
        self.last: Samples = {}
        self.sums: Samples = {}

    def look(self) -> Samples:
        """Scrape once; AssertionError if the answer is not a valid exposition, or a counter fell."""
        now = values(of_text(scraped(self.instance).text), COUNTERS)
        told = {key: value for key, value in now.items() if not key[0].startswith(PER_PROCESS)}
        fell = {key: (value, told.get(key)) for key, value in self.last.items() if told.get(key, 0.0) < value}
        self.last = told
        assert not fell, fell
        return told


def scraped(instance: AgentFixture) -> Reply:
    """Scrape."""
    reply = ask(instance, "/metrics")
    assert reply.status == 200, reply.text
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    twice = [name for name, times in Counter(TYPE.findall(reply.text)).items() if times > 1]
    assert not twice, f"told twice: {twice}"
    return reply


def own(instance: AgentFixture, name: str) -> dict[tuple[str, ...], float]:
    """Read one of the agent's own metrics, by the values of its labels in the order of their names."""
    samples = values(of_text(scraped(instance).text))
    return {tuple(value for _, value in key[1]): told for key, told in samples.items() if key[0] == OURS + name}


def answered(reports: list[Report]) -> int:
    """Count the answered requests of clients."""
    return sum(report.ok for report in reports)


def lost(reports: list[Report]) -> int:
    """Count the failed requests of clients; none was refused."""
    failed = sum(report.failed for report in reports)
    assert failed == sum(report.reasons()["reset"] + report.reasons()["eof"] for report in reports), "none was refused"
    return failed


@pytest.mark.long
@pytest.mark.timeout(600 + 5 * ROTATIONS)
def test_over_rotations_no_counter_falls_and_every_answer_is_counted_once(instance: AgentFixture, loads: Loads) -> None:
    scraper = Scraper(instance)
    with Onlooker(scraper.look, EVERY) as onlooker:
        loads.usual(instance.tls, instance.plain)
        for _ in range(ROTATIONS):
            instance.rotate()
            instance.served()
        loads.more(20)
        reports = loads.finish()
        instance.settled()
        onlooker.once_more()
    assert (onlooker.wrong, onlooker.unanswered) == ([], [])
    assert lost(reports) == 0
    wanted = answered(reports)
    eventually(lambda: scraper.look()[ANSWERED] >= wanted, what="the last answers are counted")
    assert scraper.look()[ANSWERED] == wanted
    assert all(value == 0 for value in own(instance, "scrape_failures_total").values())


@pytest.mark.long
@pytest.mark.timeout(600 + 5 * ROTATIONS + 10 * CRASHES)
def test_over_crashes_too_no_counter_falls_and_only_what_was_in_flight_may_be_missing(
    instance: AgentFixture, loads: Loads
) -> None:
    scraper = Scraper(instance)
    with Onlooker(scraper.look, EVERY) as onlooker:
        loads.gentle(instance.tls, instance.plain)
        for number in range(ROTATIONS):
            instance.rotate()
            instance.served()
            instance.committed()
            if number % max(1, ROTATIONS // CRASHES) == 0:
                crash(instance)
                loads.more(20)
        reports = loads.finish()
        instance.settled()
        onlooker.once_more()
    assert (onlooker.wrong, onlooker.unanswered) == ([], [])
    scraper.look()
    counted, most = scraper.look()[BEGUN], answered(reports) + lost(reports)
    if instance.binary.name == "sidecar":  # its counters survive a SIGKILL
        assert answered(reports) <= counted <= most
    assert 0 < counted <= most
    check(scraped(instance).text)


def crash(instance: AgentFixture) -> None:
    """Kill the serving proxy, and wait until the next one serves."""
    before = instance.serving().number
    kill(instance.serving_pid())
    eventually(lambda: instance.serving().number > before, what="the next one serves")


def check(text: str) -> None:
    """Check with promtool: it must parse everything, and may criticise only the proxy's own names."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: install Debian's package prometheus")
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    complaints = (done.stdout + done.stderr).splitlines()
    assert [line for line in complaints if not line.startswith("envoy_")] == []
    assert done.returncode in {0, 3}, "3: names are against its conventions, and Envoy's are"


def test_the_exposition_is_valid_in_both_formats_and_passes_promtool(instance: AgentFixture) -> None:
    found = values(of_text(scraped(instance).text))
    assert found[OURS + "ready", ()] == 1
    assert any(name.startswith("envoy_listener_") for name, _ in found)
    openmetrics = values(of_openmetrics(as_openmetrics(instance)))  # type: ignore[no-untyped-call]
    assert openmetrics[OURS + "ready", ()] == 1
    assert any(name.startswith("envoy_listener_") for name, _ in openmetrics)
    check(scraped(instance).text)


def as_openmetrics(instance: AgentFixture) -> str:
    """Scrape like a newer Prometheus."""
    asked = (
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((instance.status.host, instance.status.port), timeout=PATIENCE) as sock:
        sock.sendall(asked)
        data = b""
        while part := sock.recv(65536):
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"content-type: application/openmetrics-text" in head.lower()
    return body.decode()


# The agent's own


def order(instance: AgentFixture, *words: str) -> None:
    """Run a command as an operator would; it must succeed."""
    command = [sys.executable, "-m", "agent", *words, "--run-dir", str(instance.run_dir)]
    subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True)


def rotate(instance: AgentFixture) -> None:
    """Rotate, and let the old epoch exit."""
    instance.rotate()
    instance.served()
    instance.settled()


def reconfigure(instance: AgentFixture) -> None:
    """Change the response, and let the old epoch exit."""
    before = instance.serving().number
    instance.bootstrap.body += "more\n"
    instance.bootstrap.write(instance.config)
    eventually(lambda: instance.serving().number > before, what="the next one serves")
    instance.settled()


def misconfigure(instance: AgentFixture) -> None:
    """Write a configuration that no proxy accepts, and revert it."""
    filtered = http("")
    (host,) = filtered["typed_config"]["route_config"]["virtual_hosts"]
    host["routes"] = [{"match": {"prefix": "/"}, "route": {"cluster": "nowhere"}}]
    instance.bootstrap.more = [listener("lost", "127.0.0.1", instance.room.port(), [{"filters": [filtered]}])]
    instance.bootstrap.write(instance.config)
    eventually(lambda: overview(instance)["rotations"][0]["outcome"] == "refused", what="it is refused")
    instance.bootstrap.more = []
    instance.bootstrap.write(instance.config)
    eventually(lambda: overview(instance)["refused"] == [], what="nothing is refused")


@pytest.mark.long
def test_rotations_and_exits_are_counted_by_what_was_done(instance: AgentFixture) -> None:
    instance.settled()
    for _ in range(3):
        rotate(instance)
    reconfigure(instance)
    misconfigure(instance)
    order(instance, "restart")
    instance.settled()
    crash(instance)
    instance.settled()
    wanted = {
        ("serving", "start"): 1,
        ("serving", "certificate"): 3,
        ("serving", "configuration"): 1,
        ("refused", "configuration"): 1,
        ("serving", "operator"): 1,
        ("serving", "crash"): 1,
    }
    assert grown(own(instance, "rotations_total")) == wanted
    assert grown(own(instance, "proxy_exits_total")) == {("asked", "draining"): 5, ("signal", "serving"): 1}
    failures = own(instance, "rotation_failures_total")
    assert sum(failures.values()) == 1
    ends = {phase: number for (phase,), number in own(instance, "rotation_phase_duration_seconds_count").items()}
    assert [ends[phase] for phase in ("start", "open", "handover")] == [7, 7, 7]
    assert ends["drain"] == 5, "what crashed did not drain"


def grown(told: dict[tuple[str, ...], float]) -> Counter[tuple[str, ...]]:
    """Omit values of 0."""
    return Counter({key: int(value) for key, value in told.items() if value})


@pytest.mark.long
def test_how_long_clients_were_held_is_counted(unstarted: AgentFixture, binary: Path, loads: Loads) -> None:
    instance, slowly = unstarted, unstarted.directory / "slowly"
    instance.binary = instance.directory / "proxy"
    script(instance.binary, f'[ -e {slowly} ] && sleep {SLEEP}\nexec {binary} "$@"')
    instance.start()
    slowly.touch()
    loads.start("closed", instance.plain, clients=2)
    assert own(instance, "hold_seconds_total") == {(): 0}
    before = instance.serving().number
    killed = kill(instance.serving_pid())
    eventually(lambda: instance.serving().number > before, what="the next one serves")
    known = time.monotonic()
    loads.more(20)
    (report,) = loads.finish()
    assert report.first_answer_after(killed.gone) > killed.gone + SLEEP
    (held,) = own(instance, "hold_seconds_total").values()
    assert SLEEP <= held <= known - killed.struck
    slowly.unlink()
    rotate(instance)
    assert own(instance, "hold_seconds_total") == {(): held}, "a rotation holds nobody"


@pytest.mark.long
def test_connections_that_are_cut_are_counted_by_what_cut_them(unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.more_flags += ["--drain-deadline", "3s"]
    instance.start()
    with ExitStack() as stack:
        for _ in range(HELD):
            held(instance.plain, stack)
        rotate(instance)
        assert grown(own(instance, "connections_closed_total")) == {("drain_deadline",): HELD}
        for _ in range(HELD):
            held(instance.plain, stack)
        order(instance, "restart", "--now")
        instance.settled()
        assert grown(own(instance, "connections_closed_total")) == {("drain_deadline",): HELD, ("restart_now",): HELD}


def held(target: Target, stack: ExitStack) -> None:
    """Connect, get a response, begin another request, and do not finish it."""
    sock = stack.enter_context(connect(target, tls_context()))
    exchange(sock, last=False)
    sock.sendall(b"GET / HTTP/1.1\r\nHos")


@pytest.mark.long
def test_counters_go_on_over_the_death_of_an_agent(unstarted: AgentFixture, loads: Loads) -> None:
    instance = unstarted
    instance.more_flags += ["--survive"]
    instance.start()
    loads.start("closed", instance.plain)
    loads.more(20)
    rotate(instance)
    scraper = Scraper(instance)
    seen = scraper.look()
    assert instance.agent is not None
    instance.agent.send_signal(signal.SIGKILL)
    instance.agent.wait(timeout=PATIENCE)
    loads.more(20)
    instance.launch()
    instance.ready()
    rotate(instance)
    reports = loads.finish()
    now = scraper.last = values(of_text(scraped(instance).text), COUNTERS)
    fell = {key: now.get(key) for key, value in seen.items() if key[0].startswith("envoy_") and now.get(key, 0) < value}
    assert not fell
    assert lost(reports) == 0
    wanted = answered(reports)
    eventually(lambda: scraper.look()[ANSWERED] >= wanted, what="the last answers are counted")
    assert scraper.look()[ANSWERED] == wanted
