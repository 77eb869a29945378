"""Plans injections: an object and options in, edits out.

`inject` first removes what an earlier injection added. So injecting again changes nothing, and another version of the
agent or other options replace the sidecar alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent.injection import annotations, removal, status
from agent.injection.addition import Addition
from agent.injection.draft import Draft
from agent.injection.edits import Edit, JsonValue
from agent.injection.objects import InjectionRefused, PodTemplate, has_template
from agent.injection.options import InjectionOptions

__all__ = ["Injection", "InjectionRefused", "inject", "uninject"]

SYSTEM_NAMESPACES: Final = frozenset({"kube-system", "kube-public", "kube-node-lease", "local-path-storage"})


@dataclass(frozen=True, slots=True)
class Injection:
    """The edits of an object; `notes` are warnings, or the reason why there are no edits."""

    edits: tuple[Edit, ...] = ()
    notes: tuple[str, ...] = ()


def inject(document: Mapping[str, JsonValue], options: InjectionOptions, *, namespace: str | None = None) -> Injection:
    """Plan the injection of an object of the Kubernetes API, such as a Pod or a Deployment.

    `namespace`: where the object names none. Raises `InjectionRefused` naming the object and the field.
    """
    if not has_template(document):
        return Injection(notes=(f"{document.get('kind', 'an object')} has no pod template",))
    pod = PodTemplate(document, namespace)
    reason = _reason_to_skip(pod)
    if reason:
        return Injection(notes=(f"{pod.where} is not injected: {reason}",))
    draft = Draft(document)
    mounts = removal.mounts_of_others(pod, status.read(pod))
    notes = _clean(draft, pod, adopt=options.adopt)
    pod = PodTemplate(draft.document, namespace)
    chosen, more = annotations.chosen(pod, options)
    addition = Addition(draft, pod, chosen, mounts)
    addition.check()
    addition.add()
    every = (*notes, *annotations.asked(pod)[1], *more, *addition.notes)
    return Injection(tuple(draft.edits), tuple(f"{pod.where}: {note}" for note in every))


def uninject(document: Mapping[str, JsonValue]) -> Injection:
    """Plan the removal of an injection. Raises `InjectionRefused` naming object and field."""
    if not has_template(document):
        return Injection(notes=(f"{document.get('kind', 'an object')} has no pod template",))
    pod, draft = PodTemplate(document), Draft(document)
    if status.read(pod) is None:
        return Injection(notes=(f"{pod.where} is not injected",))
    _clean(draft, pod, adopt=False)
    return Injection(tuple(draft.edits))


def cleaned(document: Mapping[str, JsonValue], *, adopt: bool) -> Injection:
    """Plan the first part of `inject`, a removal. Raises `InjectionRefused`."""
    draft = Draft(document)
    notes = _clean(draft, PodTemplate(document), adopt=adopt)
    return Injection(tuple(draft.edits), tuple(notes))


def _clean(draft: Draft, pod: PodTemplate, *, adopt: bool) -> list[str]:
    recorded = status.read(pod)
    return [] if recorded is None else removal.remove(draft, pod, recorded, adopt=adopt)


def _reason_to_skip(pod: PodTemplate) -> str:
    if not annotations.asked(pod)[0]:
        return f"{annotations.INJECT} is false"
    if pod.namespace in SYSTEM_NAMESPACES:
        return f"the namespace {pod.namespace} is the cluster's own"
    if pod.spec.values.get("hostNetwork") is True:
        return "it uses the network of its node (hostNetwork)"
    if pod.spec.values.get("hostUsers") is False:
        return "it has users of its own (hostUsers: false), and the sidecar's user must be known"
    if pod.spec.mapping("os").values.get("name") == "windows":
        return "its operating system is Windows"
    return ""
