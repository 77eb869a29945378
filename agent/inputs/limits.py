"""Logs, once, what is supported only in part."""

import logging

from agent.inputs.finding_log import FindingLog
from agent.inputs.revisions import LoadedRevision
from agent.proxies.interface import Configuration

_NAMED = 3  # maximum number of certificate groups in a message


def report(configuration: Configuration, log: FindingLog) -> None:
    """Log the limits that concern a configuration."""
    if configuration.has_udp:
        text = "UDP listeners are handed over by Envoy's means: some datagrams are lost in a rotation"
        log.once("config.udp", text)
    if files := configuration.protobuf_sources:
        text = f"not part of a revision, since each epoch watches them itself: {', '.join(files)}"
        log.once("config.xds", text, logging.INFO)


def report_push(loaded: LoadedRevision, log: FindingLog) -> None:
    """Log which certificate groups of a revision cannot be pushed."""
    groups = sorted(each.name for each in loaded.selection.groups.values() if each.files.keys() - loaded.pushable)
    if not groups:
        log.once("push.limits", "")
        return
    hidden = len(groups) - _NAMED
    named = ", ".join(groups[:_NAMED]) + (f" and {hidden} more" if hidden > 0 else "")
    text = f"a change of {named} starts a new epoch: no push reaches the places where it is used"
    log.once("push.limits", text, logging.INFO)
