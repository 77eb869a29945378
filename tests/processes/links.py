"""The parts of an epoch of Envoy that tests look into."""

from agent.handoff.child import Child
from agent.handoff.parent import Parent
from agent.handoff.segment import Segment
from agent.processes.epoch_process import EpochProcess
from agent.proxies.envoy.hot_restart_link import HotRestartLink


def link_of(epoch: EpochProcess) -> HotRestartLink:
    """Return the link of an epoch of Envoy."""
    assert isinstance(epoch.link, HotRestartLink)
    return epoch.link


def segment_of(epoch: EpochProcess) -> Segment:
    """Return the segment of an epoch of Envoy."""
    assert epoch.segment is not None
    return epoch.segment


def parent_of(epoch: EpochProcess) -> Parent:
    """Return the agent's side of the channel on which an epoch requests sockets."""
    parent = link_of(epoch).parent
    assert parent is not None
    return parent


def child_of(epoch: EpochProcess) -> Child:
    """Return the agent's side of the channel on which it requests sockets from an epoch."""
    child = link_of(epoch).child
    assert child is not None
    return child
