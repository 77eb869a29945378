#!/usr/bin/env python3
"""An aiohttp application that is replaced without interrupting clients.

Standalone: ./app.py -c app.yaml. Under the agent: agent --proxy-bin ./app.py --config app.yaml --certs certs
"""

from aiohttp import web
from aiohttp.typedefs import Handler

from agent.epoch import BACKLOG, Epoch, run


def application(epoch: Epoch) -> web.Application:
    """Return the application: it greets, and during a drain closes each connection after its response."""
    requests = epoch.stats.counter("http.app.downstream_rq_total")

    async def greet(_: web.Request) -> web.Response:
        requests.add()
        return web.Response(text=f"{epoch.configuration['greeting']} from epoch {epoch.number}\n")

    @web.middleware
    async def ask_to_leave(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if epoch.client_should_leave():
            response.force_close()
        return response

    made = web.Application(middlewares=[ask_to_leave])
    made.router.add_get("/", greet)
    return made


async def main(epoch: Epoch) -> None:
    """Prepare all that may fail, wait at the gate, then serve."""
    config = epoch.configuration
    listener = await epoch.listen(config["host"], config["port"])
    tls = epoch.tls_context(config["tls"]["certificate_chain"]["filename"], config["tls"]["private_key"]["filename"])
    runner = web.AppRunner(application(epoch), access_log=None)
    await runner.setup()

    await epoch.admitted()
    sites = [web.SockSite(runner, sock, ssl_context=tls, backlog=BACKLOG) for sock in listener.sockets]
    for site in sites:
        await site.start()

    await epoch.serve()
    for site in sites:
        await site.stop()
    await epoch.terminated()
    await runner.cleanup()


if __name__ == "__main__":
    run(main)
