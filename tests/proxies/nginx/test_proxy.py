"""NGINX's command line, its version and its messages."""

import os

import pytest

from agent.core.errors import BadInput, UsageError
from agent.http.message import Request
from agent.proxies.interface import Complaint
from agent.proxies.nginx.proxy import Nginx
from tests.proxies.nginx.configurations import parsed

MODULE = "configure arguments: --with-http_stub_status_module"
BAD = """nginx: [warn] the "user" directive makes sense only if the master process runs with super-user privileges
nginx: [emerg] {}
nginx: configuration file /dev/fd/9 test failed
"""


def test_arguments_of_the_operator() -> None:
    kind = Nginx.parse(["-p", "/srv"])
    assert kind.arguments == ("-p", "/srv")
    assert kind.validate(9, None, parsed(""))[-2:] == ["-p", "/srv"]
    assert kind.identity != Nginx.parse([]).identity
    assert kind.push_form == Nginx.parse([]).push_form


@pytest.mark.parametrize("argument", ["-c", "-g", "-t", "-s", "-e", "-c/etc/x", "-gdaemon off;", "-sstop"])
def test_arguments_of_the_agent(argument: str) -> None:
    with pytest.raises(UsageError, match=f"^cannot pass {argument[:2]} to nginx: the agent decides it; leave it out$"):
        Nginx.parse([argument])


def test_a_version() -> None:
    assert Nginx().version(f"nginx version: nginx/1.22.1\n{MODULE}") == ("nginx/1.22.1", False)
    assert Nginx().version(f"nginx version: openresty/1.25.3.1\n{MODULE}") == ("openresty/1.25.3.1", False)


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("HAProxy version 2.6", "it does not tell a version of NGINX"),
        (f"nginx version: nginx/1.18.0\n{MODULE}", "needs 1.20 or newer, which has -e"),
        ("nginx version: nginx/1.22.1\nconfigure arguments:", "without http_stub_status_module"),
    ],
)
def test_a_program_that_cannot_be_used(output: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        Nginx().version(output)


def complaint(text: str) -> Complaint:
    made = parsed("a;\ninclude x;\nb;", {"/etc/nginx/x": b"c;\nd;\n"})
    return Nginx().complaint(BAD.format(text), {7: "/c/a.crt", 9: "/etc/nginx/nginx.conf"}, made)


def test_the_first_emergency_is_the_complaint_and_names_the_original_line() -> None:
    assert complaint('unknown directive "d" in /dev/fd/9:3').text == 'unknown directive "d" in /etc/nginx/x:2'
    assert complaint('unknown directive "b" in /dev/fd/9:6').text == 'unknown directive "b" in /etc/nginx/nginx.conf:3'


def test_a_descriptor_is_named_as_the_file_that_it_replaces() -> None:
    said = complaint('cannot load certificate "/dev/fd/7": PEM_read_bio_X509_AUX() failed')
    assert said.text == 'cannot load certificate "/c/a.crt": PEM_read_bio_X509_AUX() failed'
    assert said.paths == frozenset({"/c/a.crt"})


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("", "it printed no message"),
        ("Segmentation fault\n", "Segmentation fault"),
        ("2026/01/01 01:02:03 [emerg] 12#12: bind() to 0.0.0.0:80 failed\nmore", "bind() to 0.0.0.0:80 failed"),
        ("nginx: [alert] could not open error log file: open() x\nnginx: [emerg] y", "y"),
        (f"nginx: [emerg] {'x' * 900}", f"{'x' * 500}…"),
    ],
)
def test_other_output(output: str, text: str) -> None:
    assert Nginx().complaint(output, {}).text == text


def test_the_configuration_of_a_relative_file_is_in_the_working_directory() -> None:
    made = Nginx().configuration("include a;", "conf/nginx.conf")
    assert made.unread == [f"{os.getcwd()}/conf/a"]  # noqa: PTH109


async def test_it_has_no_admin_interface() -> None:
    answer = await Nginx().forwarder(()).answer(Request("GET", "/"))
    assert (answer.status, answer.body) == (404, b"NGINX has no admin interface\n")
