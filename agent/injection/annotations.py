"""Reads and checks the annotations with which a pod changes its injection.

Names: istio.io/docs/reference/config/annotations. What the agent reads when it runs is checked here as well.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from agent.core.errors import UsageError
from agent.injection.objects import ObjectFields, PodTemplate
from agent.injection.options import InjectionOptions, Native, Resources, quantity
from agent.interception import options as interception
from agent.interception.options import Mode
from agent.istio import go_flags, proxy_config
from agent.istio.discovery import ControlPlane

STATUS: Final = "sidecar.istio.io/status"
INJECT: Final = "sidecar.istio.io/inject"
CONFIG: Final = proxy_config.ANNOTATION

_SIDECAR, _TRAFFIC = "sidecar.istio.io/", "traffic.sidecar.istio.io/"
_TRAFFIC_OPTIONS: Final = {
    "includeInboundPorts": "inbound-ports",
    "excludeInboundPorts": "local-exclude-ports",
    "includeOutboundPorts": "outbound-ports",
    "excludeOutboundPorts": "local-outbound-ports-exclude",
    "includeOutboundIPRanges": "service-cidr",
    "excludeOutboundIPRanges": "service-exclude-cidr",
    "excludeInterfaces": "exclude-interfaces",
    "kubevirtInterfaces": "kube-virt-interfaces",
}
_RESOURCES: Final = {
    "proxyCPU": "cpu",
    "proxyMemory": "memory",
    "proxyCPULimit": "cpu_limit",
    "proxyMemoryLimit": "memory_limit",
}
_READ_BY_THE_AGENT: Final = frozenset({
    "discoveryAddress", "extraStatTags", "statsInclusionPrefixes", "statsInclusionSuffixes", "statsInclusionRegexps",
})  # fmt: skip
_IMAGE = re.compile(r"[\w./:@-]+", re.ASCII)
_LEVELS: Final = ("trace", "debug", "info", "warning", "error", "critical", "off")
_CONFIG_MAP = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def chosen(pod: PodTemplate, options: InjectionOptions) -> tuple[InjectionOptions, list[str]]:
    """Return the options with the annotations of the pod, and notes. Raises `InjectionRefused`."""
    reader = _Reader(pod)
    for name, read in _READERS.items():
        options = reader.apply(_SIDECAR + name, options, read)
    options = reader.apply("status.sidecar.istio.io/port", options, _status_port)
    options = reader.apply(CONFIG, options, _proxy_config)
    options = _resources(reader, options)
    texts, notes = _traffic(reader, options)
    return replace(options, interception_texts=texts), [*notes, *_unknown(pod)]


def asked(pod: PodTemplate) -> tuple[bool, list[str]]:
    """Return whether the label, or else the annotation, allows an injection; and notes."""
    for where, node in (("label", pod.metadata.mapping("labels")), ("annotation", pod.annotations)):
        value = node.values.get(INJECT)
        if value is None:
            continue
        if isinstance(value, bool) or value in ("false", "true"):
            return value in (True, "true"), []
        return True, [f"the {where} {INJECT} is neither true nor false, and is ignored"]
    return True, []


class _Reader:
    def __init__(self, pod: PodTemplate) -> None:
        self._pod = pod

    def text(self, name: str) -> str | None:
        """Return the text of an annotation; None without it. A boolean or a number is one, too."""
        value = self._pod.annotations.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool):
            return "true" if value else "false"
        if not isinstance(value, str | int | float):
            raise self.refused(name, "it is not a text")
        return str(value).strip()

    def apply(self, name: str, options: InjectionOptions, read: "_Read") -> InjectionOptions:
        """Return the options as the annotation changes them."""
        text = self.text(name)
        if text is None:
            return options
        try:
            return replace(options, **read(text))
        except (ValueError, UsageError) as error:
            raise self.refused(name, str(error)) from None

    def refused(self, name: str, why: str) -> Exception:
        """Return the error for an annotation."""
        return self._annotations.refused(f"cannot be used: {why}", name)

    @property
    def _annotations(self) -> ObjectFields:
        return self._pod.annotations


_Read = Callable[[str], Mapping[str, Any]]


def _image(text: str) -> Mapping[str, Any]:
    if not _IMAGE.fullmatch(text):
        message = "it is not the name of an image"
        raise ValueError(message)
    return {"image": text}


def _log_level(text: str) -> Mapping[str, Any]:
    levels = [item.rpartition(":")[2] for item in text.split(",")]
    if not set(levels) <= set(_LEVELS):
        message = f"it is not one of {', '.join(_LEVELS)}"
        raise ValueError(message)
    return {"log_level": text}


def _mode(text: str) -> Mapping[str, Any]:
    if text not in list(Mode):
        message = f"it is not one of {', '.join(Mode)}"
        raise ValueError(message)
    return {"interception": Mode(text)}


def _bootstrap_override(text: str) -> Mapping[str, Any]:
    if not _CONFIG_MAP.fullmatch(text):
        message = "it is not the name of a ConfigMap"
        raise ValueError(message)
    return {"bootstrap_override": text}


def _native(text: str) -> Mapping[str, Any]:
    return {"native": Native.ON if go_flags.boolean(text) else Native.OFF}


def _rewrite(text: str) -> Mapping[str, Any]:
    return {"rewrite_probes": go_flags.boolean(text)}


def _discovery_address(text: str) -> Mapping[str, Any]:
    ControlPlane.parse(text)
    return {}


def _status_port(text: str) -> Mapping[str, Any]:
    port = go_flags.port(text)
    if port == 0:
        message = "it is not a port between 1 and 65535"
        raise ValueError(message)
    return {"status_port": port}


def _proxy_config(text: str) -> Mapping[str, Any]:
    config = proxy_config.read(None, None, {CONFIG: text})
    given: dict[str, Any] = {}
    if config.interception_mode:
        given["interception"] = Mode(config.interception_mode)
    if config.status_port:
        given["status_port"] = config.status_port
    if isinstance(hold := config.mapping.get("holdApplicationUntilProxyStarts"), bool):
        given["hold_application"] = hold
    return given


_READERS: Final[Mapping[str, _Read]] = {
    "proxyImage": _image,
    "logLevel": _log_level,
    "bootstrapOverride": _bootstrap_override,
    "nativeSidecar": _native,
    "rewriteAppHTTPProbers": _rewrite,
    "discoveryAddress": _discovery_address,
    "interceptionMode": _mode,
}


def _resources(reader: _Reader, options: InjectionOptions) -> InjectionOptions:
    """Return the options with the annotated resources: one annotation replaces all defaults."""
    given = {}
    for name, field in _RESOURCES.items():
        text = reader.text(_SIDECAR + name)
        if text is None:
            continue
        try:
            quantity(text)
        except ValueError as error:
            raise reader.refused(_SIDECAR + name, str(error)) from None
        given[field] = text
    if not given:
        return options
    return replace(options, resources=Resources(**{**dict.fromkeys(_RESOURCES.values(), ""), **given}))


def _traffic(reader: _Reader, options: InjectionOptions) -> tuple[dict[str, str], list[str]]:
    """Return the options of the interception, each checked on its own, and notes."""
    texts, notes = dict(options.interception_texts), []
    for name, option in _TRAFFIC_OPTIONS.items():
        text = reader.text(_TRAFFIC + name)
        if text is None:
            continue
        try:
            parsed = interception.parse({option: text}, {}, ())
        except UsageError as error:
            raise reader.refused(_TRAFFIC + name, _renamed(str(error), option)) from None
        notes += [f"{_TRAFFIC}{name}: {_renamed(warning, option)}" for warning in parsed.warnings]
        texts[option] = text
    return texts, notes


def _renamed(text: str, option: str) -> str:
    """Return a message about an option of `agent intercept` without the option."""
    return text.removeprefix("cannot use ").removeprefix(f"--{option} ")


def _unknown(pod: PodTemplate) -> list[str]:
    """Return a note for the annotations of a sidecar that have no effect here."""
    known = {STATUS, INJECT}
    known |= {_SIDECAR + name for name in (*_READERS, *_RESOURCES, *_READ_BY_THE_AGENT)}
    known |= {_TRAFFIC + name for name in _TRAFFIC_OPTIONS}
    ours = (name for name in pod.annotations.values if name.startswith((_SIDECAR, _TRAFFIC)))
    unknown = sorted(set(ours) - known)
    return [f"no effect here: the annotation {', '.join(unknown)}"] if unknown else []
