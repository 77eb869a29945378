"""The metrics of the webhook: its reviews, its certificate, its registration, and its process."""

import sys
from collections.abc import Iterator

from agent import __version__
from agent.certificates.groups import CertificateGroup
from agent.certificates.references import Role
from agent.metrics.instruments import Counter, Histogram, Values, labelled, single
from agent.metrics.parser import Family, Kind
from agent.metrics.registry import PREFIX, certificate_families, process_families
from agent.metrics.writer import format_families
from agent.status.model import Authorities, CertificateSet, Facts
from agent.webhook.registration import Registration
from agent.webhook.reviewer import Result
from agent.webhook.serving_pair import ServingPair

INVALID = "invalid"
"""The result of a request that is no review, or none that can be answered."""

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class WebhookMetrics:
    """Counts reviews; reads the rest from the parts of the webhook at each scrape."""

    def __init__(self, pair: ServingPair, registration: Registration | None) -> None:
        self._pair = pair
        self._registration = registration
        text = "Requests for a review, by what became of the pod."
        self._reviews = Counter(f"{PREFIX}_webhook_reviews_total", text, ["result"])
        for result in (*Result, INVALID):
            self._reviews.begin(str(result))
        text = "Time from a whole request to its response."
        self._seconds = Histogram(f"{PREFIX}_webhook_review_duration_seconds", text, [], _BUCKETS)

    def reviewed(self, result: Result, seconds: float) -> None:
        """Count a review that was answered."""
        self._reviews.add(result.value)
        self._seconds.observe(seconds)

    def refused(self) -> None:
        """Count a request that could not be answered."""
        self._reviews.add(INVALID)

    def expose(self, *, openmetrics: bool) -> bytes:
        """Return all metrics as text."""
        return b"".join(format_families(self.families(), openmetrics=openmetrics))

    def families(self) -> Iterator[Family]:
        """Yield all metric families, as of now."""
        yield self._reviews.family()
        yield self._seconds.family()
        build: Values = {(__version__, sys.version.split()[0]): 1.0}
        text = "The agent's version, and its Python's."
        yield labelled(f"{PREFIX}_build_info", Kind.GAUGE, text, ("version", "python"), build)
        text = "Whether the webhook has a certificate."
        yield single(f"{PREFIX}_webhook_ready", Kind.GAUGE, text, not self._pair.missing)
        yield from self._of_files()
        if self._registration is not None:
            yield from _of_registration(self._registration)
        yield from process_families("process")

    def _of_files(self) -> Iterator[Family]:
        loads: Values = {("loaded",): float(self._pair.loaded), ("refused",): float(self._pair.rejected)}
        text = "Certificates that were loaded, and files that were refused."
        yield labelled(f"{PREFIX}_webhook_certificate_loads_total", Kind.COUNTER, text, ("result",), loads)
        refused: Values = {}
        for each in self._pair.reports.refusals:
            key = (each.group, each.fault.value)
            refused[key] = refused.get(key, 0.0) + 1
        text = "Files on disk that are refused."
        yield labelled(f"{PREFIX}_files_refused", Kind.GAUGE, text, ("set", "reason"), refused)
        if self._pair.group is not None:
            yield from certificate_families((self._set(self._pair.group),))

    def _set(self, group: CertificateGroup) -> CertificateSet:
        chain, key = (next(each.path for each in group.references if each.role is role) for role in _PAIR)
        served = None if group.leaf is None else Facts.of(group.leaf)
        disk = None if self._pair.on_disk is None else Facts.of(self._pair.on_disk)
        own = () if self._registration is None else self._registration.own
        ends = min((each.not_valid_after_utc for each in own), default=None)
        bundles = (Authorities("", len(own), ends),) if own else ()
        return CertificateSet("webhook", chain, key, served, disk, bundles, in_sync=served == disk)


_PAIR = (Role.CHAIN, Role.KEY)


def _of_registration(registration: Registration) -> Iterator[Family]:
    results: Values = {(result,): float(count) for result, count in registration.results.items()}
    text = "Attempts to register the authorities, by result."
    yield labelled(f"{PREFIX}_webhook_registrations_total", Kind.COUNTER, text, ("result",), results)
