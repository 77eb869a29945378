"""The `sidecar` command. Accepts Envoy's flags; exits as Envoy does: 0 on request, else 1."""

import asyncio
import logging
import sys
from collections.abc import Sequence

from agent.core.errors import AgentError, UsageError
from agent.epoch import statistics
from agent.epoch.arguments import Answer, Arguments, parse
from agent.host.limits import keep_standard_streams, raise_descriptor_limit
from agent.sidecar.config.bootstrap import read
from agent.sidecar.log import Log
from agent.sidecar.model import Configuration
from agent.sidecar.server import Server, try_addresses
from agent.sidecar.traffic import DataPlane
from agent.stats.writer import Writer

_NAME = "sidecar"
_log = logging.getLogger("main")


def main() -> None:
    """Run the command and exit with its code."""
    keep_standard_streams()
    sys.exit(run(sys.argv[1:]))


def run(words: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    try:
        arguments = parse(words, _NAME)
        log = Log(arguments.log_level, arguments.log_format, arguments.log_path)
    except Answer as answer:
        sys.stdout.write(f"{answer.text}\n")
        return 0
    except UsageError as error:
        sys.stderr.write(f"{_NAME}: {error}\n")
        return 1
    try:
        return _serve(arguments, log)
    except AgentError as error:
        _log.critical("error initializing configuration '%s': %s", arguments.config_path or "", error)
        return 1


def _serve(arguments: Arguments, log: Log) -> int:
    configuration = read(
        arguments.config_path,
        arguments.config_yaml,
        node=arguments.service_node,
        cluster=arguments.service_cluster,
    )
    if configuration.log_format is not None:
        log.use(configuration.log_format)
    if arguments.mode != "serve":
        _load(arguments, configuration, Writer.private())
        if arguments.mode == "init_only":
            try_addresses(configuration)
        sys.stdout.write(f"configuration '{arguments.config_path or ''}' OK\n")
        return 0
    raise_descriptor_limit()
    stats = statistics.open_writer()
    asyncio.run(_run(arguments, configuration, stats, log))
    return 0


async def _run(arguments: Arguments, configuration: Configuration, stats: Writer, log: Log) -> None:
    await Server(arguments, configuration, _load(arguments, configuration, stats), stats, log).run()


def _load(arguments: Arguments, configuration: Configuration, stats: Writer) -> DataPlane:
    immediate = arguments.drain_strategy == "immediate"
    return DataPlane(configuration, stats, drain_time=arguments.drain_time, drain_immediately=immediate)
