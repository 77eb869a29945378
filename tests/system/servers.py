"""The servers that run under the agent unmodified, each with a configuration that answers every request with 200."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.system.agent_fixture import HOST, AgentFixture
from tests.system.certificates import NAME, serial
from tests.system.eventually import eventually
from tests.system.layouts import CHAIN, KEY
from tests.system.listening import holds

HERE = Path(__file__).parent
WSGI = """
import os
def application(environ, start_response):
    body = b"%d\\n" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
ASGI = """
import os
async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = b"%d\\n" % os.getpid()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
LIGHTTPD = """
server.document-root = "{directory}/site"
server.systemd-socket-activation = "enable"
server.modules = ("mod_openssl")
server.bind = "{host}"
server.port = {port}
server.stream-response-body = 0
index-file.names = ("index.html")
mimetype.assign = (".html" => "text/html")
ssl.engine = "enable"
ssl.pemfile = "{{cert:{chain}}}"
ssl.privkey = "{{key:{key}}}"
"""
TRAEFIK = """
tls:
  certificates:
    - certFile: "{{cert:{chain}}}"
      keyFile: "{{key:{key}}}"
http:
  routers:
    all:
      entryPoints: [web]
      rule: PathPrefix(`/`)
      service: ping@internal
      tls: {{}}
"""
CADDY = """
{{
    admin off
    auto_https off
    grace_period 10s
    servers {{
        protocols h1 h2
    }}
}}
https://:{port} {{
    bind fd/{{fd:web}}
    tls {{cert:{chain}}} {{key:{key}}}
    respond "ok"
}}
"""


@dataclass(frozen=True)
class Server:
    """A server: its program, its arguments, further options of the agent, and its configuration if it has one.

    `files` are written beside the configuration. In all texts, `{directory}` is the agent's.
    """

    name: str
    program: str
    arguments: tuple[str, ...]
    options: tuple[str, ...] = ()
    configuration: str | None = None
    files: dict[str, str] = field(default_factory=dict)

    @property
    def binary(self) -> Path | None:
        """Its program: the one beside this interpreter, or one on the path."""
        if "/" in self.program:
            return Path(self.program)
        beside = Path(sys.executable).with_name(self.program)
        found = shutil.which(str(beside)) or shutil.which(self.program, path="/usr/sbin:/usr/bin:/usr/local/bin")
        return Path(found) if found else None


_CHECK = ("--check", "GET /")
_PAIR = ("--certfile", "{cert}", "--keyfile", "{key}")
_SSL = ("--ssl-certfile", "{cert}", "--ssl-keyfile", "{key}")
_QUIET = ("--ping.manualrouting=true", "--global.checknewversion=false", "--global.sendanonymoususage=false")
SERVERS = {
    each.name: each
    for each in (
        Server(
            "gunicorn",
            "gunicorn",
            ("--chdir", "{directory}", "--workers", "2", "--no-control-socket", *_PAIR, "wsgi"),
            ("--ready", "notify", *_CHECK),
            files={"wsgi.py": WSGI},
        ),
        Server(
            "uvicorn",
            "uvicorn",
            ("--fd", "{fd:web}", "--app-dir", "{directory}", *_SSL, "--no-access-log", "asgi:application"),
            _CHECK,
            files={"asgi.py": ASGI},
        ),
        Server(
            "hypercorn",
            "hypercorn",
            ("--bind", "fd://{fd:web}", "--workers", "0", *_PAIR, "{directory}/asgi:application"),
            _CHECK,
            files={"asgi.py": ASGI},
        ),
        Server(
            "lighttpd",
            "lighttpd",
            ("-D", "-f", "{config}"),
            ("--drain-signal", "INT", *_CHECK),
            LIGHTTPD,
            files={"site/index.html": "ok\n"},
        ),
        Server(
            "traefik",
            "traefik",
            ("--entryPoints.web.address={host}:{port}", "--providers.file.filename={config}", "--ping=true", *_QUIET),
            _CHECK,
            TRAEFIK,
        ),
        Server(
            "faulty",
            "python",
            ("{here}/faulty_server.py", "{directory}/behaviour", "{plain}", "{cert}", "{key}"),
            _CHECK,
            files={"behaviour": "well"},
        ),
        Server("caddy", "caddy", ("run", "--adapter", "caddyfile", "--config", "{config}"), _CHECK, CADDY),
    )
}
FAULTY = "faulty"
"""The tests' own, which fails as a test wants."""

DEFAULT = ("gunicorn", "uvicorn")
"""Those of the default run; they are in requirements/dev.txt."""


def needed(name: str) -> Server:
    """Return a server; the test is skipped if it is not installed."""
    server = SERVERS[name]
    if server.binary is None:
        pytest.skip(f"no {name}: pip install --group servers, or apt-get install lighttpd")
    return server


@dataclass
class ServerFixture(AgentFixture):
    """An agent fixture with a server in place of a proxy; it has one listener, `web`, with TLS."""

    server: Server = SERVERS["gunicorn"]
    listeners: list[str] = field(default_factory=list)
    plain_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tls = replace(self.tls, server_name=NAME)
        self.config = self.directory / f"{self.server.name}.yaml"  # Traefik looks at the suffix
        self.listeners = self.listeners or [f"web={HOST}:{self.tls.port}"]

    def filled(self, text: str) -> str:
        """Return a text with this agent's paths and address."""
        values = {"directory": self.directory, "chain": self.certs / CHAIN, "key": self.certs / KEY}
        return text.format(host=HOST, port=self.tls.port, **values)

    def prepare(self) -> None:
        """Write the server's files and the first certificate."""
        for name, text in self.server.files.items():
            path = self.directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="ascii")
        if self.server.configuration is not None:
            self.config.write_text(self.filled(self.server.configuration), encoding="ascii")
        self.layout.first(self.certs, self.mint.leaf())

    def arguments(self) -> list[str]:
        """Return the server's own arguments."""
        return [_filled(each, self) for each in self.server.arguments]

    def command(self) -> list[str]:
        """Return the command line of the agent."""
        files = ["--certs", str(self.certs), "--run-dir", str(self.run_dir)]
        if self.server.configuration is not None:
            files += ["--config", str(self.config)]
        listen = [word for each in self.listeners for word in ("--listen", each)]
        flags = ["--status-port", str(self.status.port), "--log-format", "json", *self.deadlines, *self.server.options]
        program = ["--proxy-bin", str(self.server.binary)]
        return [*self.program, *program, *files, *listen, *flags, *self.more_flags, "--", *self.arguments()]

    @property
    def deadlines(self) -> tuple[str, ...]:
        """Deadlines as those of the other agent fixtures."""
        return ("--stop-deadline", "2s", "--start-deadline", "5m", "--drain-deadline", "5m", "--hold", "5m")

    @property
    def serves_certificates(self) -> bool:
        """Whether its arguments or its configuration name one."""
        return "{cert" in " ".join([*self.server.arguments, self.server.configuration or ""])

    def serial_served(self) -> int:
        """Return the serial that a client receives; without certificates, that of the newest one."""
        return super().serial_served() if self.serves_certificates else serial(self.mint.newest)

    def ready(self) -> None:
        """Wait until the agent is ready, serves the newest certificate and holds the socket."""
        eventually(self._is_ready, what="the agent is ready")
        eventually(lambda: holds(self.agent_pid, self.tls.port), what="the vault is complete")


def _filled(word: str, fixture: ServerFixture) -> str:
    values = {"directory": fixture.directory, "host": HOST, "port": fixture.tls.port}
    for name, value in {**values, "here": HERE, "plain": ",".join(fixture.plain_names)}.items():
        word = word.replace(f"{{{name}}}", str(value))
    return word


MakeServer = Callable[..., ServerFixture]
