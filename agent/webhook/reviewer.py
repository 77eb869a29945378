"""Decides reviews: each pod is admitted with the sidecar, as it is, or not at all."""

from dataclasses import dataclass
from enum import StrEnum

from agent.injection import planning
from agent.injection.annotations import STATUS
from agent.injection.draft import applied
from agent.injection.edits import JsonValue
from agent.injection.json_patch import json_patch
from agent.injection.objects import InjectionRefused
from agent.injection.options import InjectionOptions
from agent.webhook import review

_BAD_REQUEST, _INTERNAL_ERROR = 400, 500
_MOST = 256  # containers of a pod: each costs about a millisecond, and nobody waits for longer than 5 s
_BUG = "cannot add the sidecar: the webhook failed; see its log, and report this"


class Result(StrEnum):
    """What became of a pod."""

    INJECTED = "injected"
    UNCHANGED = "unchanged"  # it has the sidecar already, or is not the creation of a pod
    SKIPPED = "skipped"  # it does not want the sidecar, or cannot have it
    REFUSED = "refused"  # it wants the sidecar, and a field of it stands against that
    FAILED = "failed"  # a bug


@dataclass(frozen=True, slots=True)
class Outcome:
    """The response to a review, and what to log of it. `error` is a bug that was caught."""

    result: Result
    body: bytes
    text: str = ""
    error: Exception | None = None


class Reviewer:
    """Answers reviews. With `denies`, a pod that cannot get the sidecar is rejected; else it is admitted without."""

    def __init__(self, options: InjectionOptions, *, denies: bool) -> None:
        self._options = options
        self._denies = denies

    def answer(self, body: bytes) -> Outcome:
        """Answer the body of a request. Raises `BadReview`, and nothing else."""
        asked = review.parse(body)
        if asked.pod is None:
            return Outcome(Result.UNCHANGED, review.allowed(asked.uid))
        try:
            return self._injected(asked, asked.pod)
        except InjectionRefused as error:
            return self._without(asked, Result.REFUSED, _BAD_REQUEST, str(error))
        except Exception as error:  # noqa: BLE001  # a bug must not stop all pods of a cluster: it is logged
            return self._without(asked, Result.FAILED, _INTERNAL_ERROR, _BUG, error)

    def _injected(self, asked: review.Review, pod: dict[str, JsonValue]) -> Outcome:
        if (count := _containers(pod)) > _MOST:
            message = f"cannot change a pod with {count} containers: at most {_MOST} can be changed in time; divide it"
            raise InjectionRefused(message)
        plan = planning.inject(pod, self._options, namespace=asked.namespace or None)
        if not plan.edits:
            return Outcome(Result.SKIPPED, review.allowed(asked.uid), "; ".join(plan.notes))
        if _is_injected(pod) and applied(pod, plan.edits) == pod:
            return Outcome(Result.UNCHANGED, review.allowed(asked.uid))
        body = review.allowed(asked.uid, json_patch(plan.edits), plan.notes)
        return Outcome(Result.INJECTED, body, "; ".join(plan.notes))

    def _without(
        self, asked: review.Review, result: Result, code: int, message: str, error: Exception | None = None
    ) -> Outcome:
        if self._denies:
            return Outcome(result, review.denied(asked.uid, code, message), message, error)
        text = f"{message}; the pod is admitted without the sidecar"
        return Outcome(result, review.allowed(asked.uid, warnings=[text]), text, error)


def _containers(pod: dict[str, JsonValue]) -> int:
    """Count the containers of a pod, as far as it is well-formed."""
    spec = pod.get("spec")
    lists = [spec.get(key) for key in ("containers", "initContainers")] if isinstance(spec, dict) else []
    return sum(len(each) for each in lists if isinstance(each, list))


def _is_injected(pod: dict[str, JsonValue]) -> bool:
    """Return whether an injection has left its record: without one, a plan always changes something."""
    metadata = pod.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    return isinstance(annotations, dict) and STATUS in annotations
