"""How urgent it is to renew a certificate: the colours of `agent status`, `agent certs` and the page.

They have the limits of the alert rules in `examples/prometheus`. `status/site/words.js` repeats this function.
"""

from datetime import datetime, timedelta
from enum import StrEnum

SOON = timedelta(days=14)
URGENT = timedelta(days=2)
_SOON_SHARE, _URGENT_SHARE = 5, 20  # of a short life: a certificate of 24 hours is not urgent all day


class Expiry(StrEnum):
    """How near the end of a certificate is."""

    FAR = "far"
    SOON = "soon"  # less than 14 days, or a fifth of a life that is shorter than 70 days
    URGENT = "urgent"  # less than 2 days, or a twentieth of a life that is shorter than 40 days
    ENDED = "ended"


def expiry(not_before: datetime, not_after: datetime, now: datetime) -> Expiry:
    """Return how near the end of a certificate with these dates is."""
    left, life = not_after - now, not_after - not_before
    if left < timedelta():  # it is valid at its last instant (RFC 5280, 4.1.2.5)
        return Expiry.ENDED
    if left < min(URGENT, life / _URGENT_SHARE):
        return Expiry.URGENT
    return Expiry.SOON if left < min(SOON, life / _SOON_SHARE) else Expiry.FAR
