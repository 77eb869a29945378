"""Library that makes any asyncio server hot-restartable, under the agent or Envoy.

`run` and `Epoch` are the entry points (`agent.epoch.epoch`); `agent.epoch.hot_restart` is the protocol below.
"""

from agent.epoch.epoch import Epoch, run
from agent.epoch.public_listener import Listener
from agent.epoch.sockets import BACKLOG

__all__ = ["BACKLOG", "Epoch", "Listener", "run"]
