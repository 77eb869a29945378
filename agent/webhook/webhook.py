"""The webhook from its start to its end: certificate, server, registration, signals."""

import asyncio
import logging
import signal

from agent.core.errors import MachineError
from agent.host import clock
from agent.host.disk_thread import DiskThread
from agent.host.limits import WAITING_SIGNALS
from agent.host.log import log_event, tell
from agent.host.service_manager import ServiceManager
from agent.host.sockets import Endpoint, listen
from agent.host.tasks import Tasks
from agent.http.server import Limits, Server
from agent.inputs.loader import wait_for_change
from agent.status.health import Health
from agent.webhook.registration import Registration
from agent.webhook.reviewer import Reviewer
from agent.webhook.routes import Routes
from agent.webhook.serving_pair import ServingPair
from agent.webhook.settings import WebhookSettings
from agent.webhook.webhook_metrics import WebhookMetrics

BODY = 3 << 20  # bytes of a review: the API server takes no larger object
_BODIES = 32 << 20  # of all reviews at once
_CLIENTS = 256  # a TLS connection takes a quarter of a megabyte
_REQUEST_TIMEOUT = 5.0  # seconds, as `timeoutSeconds` in the manifest: nobody waits for a later response
_LAST_REQUESTS = 10.0  # seconds for what is in progress at the end
_LOOK_AGAIN = 1.0  # seconds until a new load after the machine refused something


class Webhook:
    """One webhook. Construct it inside a running loop."""

    def __init__(self, settings: WebhookSettings) -> None:
        self._settings = settings
        self._changed = asyncio.Event()
        self._disk = DiskThread(
            self._note_change, notice=lambda text: log_event(logging.WARNING, "watch.degraded", text)
        )
        self._pair = ServingPair(settings.certificates, [settings.authority_file], self._disk)
        self._registration = (
            Registration(settings.registration, settings.authority_file, self._disk) if settings.registration else None
        )
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()
        reviewer = Reviewer(settings.options, denies=settings.denies)
        metrics = WebhookMetrics(self._pair, self._registration)
        self._routes = Routes(reviewer, metrics, Health(self._why_not_ready))
        limits = Limits(BODY, _BODIES, _REQUEST_TIMEOUT)
        self._server = Server(
            self._routes.answer, clients_limit=_CLIENTS, limits=limits, tls=lambda: self._pair.context
        )
        self._health = Server(self._routes.answer_plain, limits=Limits(body=0))
        self._manager = ServiceManager()
        self._tasks = Tasks()

    def _note_change(self) -> None:
        self._changed.set()
        if self._registration is not None:
            self._registration.reload_soon()

    def _why_not_ready(self) -> str:
        return "the webhook is stopping" if self._stopping.is_set() else self._pair.missing

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit code. Raises `AgentError` if it cannot listen."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(tell)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number.name)
        loop.add_signal_handler(signal.SIGHUP, self._note_change)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WAITING_SIGNALS)
        try:
            await self._open()
            self._tasks.spawn(self._watch(), "certificates")
            if self._registration is not None:
                self._tasks.spawn(self._registration.run(), "registration")
            await self._stopping.wait()
            await self._drain()
        finally:
            await self._close()
        return 0

    async def _open(self) -> None:
        settings = self._settings
        if settings.health_port is not None:
            await self._health.start(listen(Endpoint(settings.host, settings.health_port)))
        await self._server.start(listen(Endpoint(settings.host, settings.port)))
        text = f"the webhook listens on {Endpoint(settings.host, settings.port)}"
        log_event(logging.INFO, "webhook.started", text)
        self._manager.starting()

    async def _watch(self) -> None:
        """Load the pair on every change, until cancelled."""
        while True:
            self._changed.clear()
            try:
                again_at = await self._pair.load()
                self._pair.reports.once("disk.unusable", "")
            except (MachineError, OSError) as error:
                text = f"{error}; the served certificate stays in use"
                self._pair.reports.once("disk.unusable", text, logging.ERROR)
                again_at = clock.monotonic() + _LOOK_AGAIN
            self._tell_state()
            await wait_for_change(self._changed, again_at)

    def _tell_state(self) -> None:
        missing = self._pair.missing
        self._pair.reports.once("files.awaited", missing)
        self._manager.status(missing or "serves")
        if not missing:
            self._manager.ready()

    def _stop(self, reason: str) -> None:
        """Begin the end; a second signal skips the delay."""
        if self._stopping.is_set():
            self._hurried.set()
            return
        log_event(logging.INFO, "webhook.stopping", f"{reason}: requests in progress end, then the webhook exits")
        self._manager.stopping()
        self._routes.is_stopping = True
        self._stopping.set()

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._settings.drain_delay):
                await self._hurried.wait()
        except TimeoutError:
            pass
        await self._server.drain(_LAST_REQUESTS)

    async def _close(self) -> None:
        await self._tasks.close()
        await self._server.close()
        await self._health.close()
        await self._disk.close()
        self._manager.close()
        log_event(logging.INFO, "webhook.gone", "the webhook exits")


async def run(settings: WebhookSettings) -> int:
    """Run a webhook until it is told to stop."""
    return await Webhook(settings).run()
