"""What makes any asyncio server an epoch that can be replaced without one client noticing: by the agent, or by Envoy.

`run` and `Epoch` are the way in (`agent.epoch.epoch`); `agent.epoch.hot_restart` is the protocol below it.
"""

from agent.epoch.epoch import Epoch, run
from agent.epoch.public_listener import Listener
from agent.epoch.sockets import BACKLOG

__all__ = ["BACKLOG", "Epoch", "Listener", "run"]
