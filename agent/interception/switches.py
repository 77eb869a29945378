"""The options of `agent intercept`, with the names and variables that they have in Istio.

Source: Istio 1.31, tools/istio-iptables/pkg/cmd and pkg/constants.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flag:
    """An option; `default` for a text, None for a switch. `plain`: Istio's default where that is another one."""

    name: str
    help: str
    short: str = ""
    default: str | None = ""
    istio: str = ""
    plain: str | None = None

    @property
    def names(self) -> Iterator[str]:
        """Its name and Istio's."""
        yield self.name
        if self.istio:
            yield self.istio

    @property
    def variable(self) -> str:
        """The environment variable that gives its default."""
        return (self.istio or self.name).upper().replace("-", "_")


FLAGS = (
    Flag("envoy-port", "The proxy's port for outbound connections.", "p", "15001"),
    Flag("inbound-capture-port", "The proxy's port for inbound connections.", "z", "15006"),
    Flag("inbound-tunnel-port", "A port of the proxy itself, never intercepted; 0 for none.", "e", "15008"),
    Flag("proxy-uid", "The proxy's numeric user, or several.", "u", ""),
    Flag("proxy-gid", "Its numeric group, or several; by default as --proxy-uid.", "g", ""),
    Flag(
        "inbound-interception-mode", "REDIRECT, TPROXY or NONE.", "m", "", "istio-inbound-interception-mode",
    ),
    Flag("inbound-ports", "Intercepted inbound ports, * for all, empty for none.", "b", "*", "istio-inbound-ports", ""),
    Flag("local-exclude-ports", "Inbound ports that are not, where all are.", "d", "", "istio-local-exclude-ports"),
    Flag("exclude-interfaces", "Interfaces whose traffic is not intercepted.", "c", "", "istio-exclude-interfaces"),
    Flag("service-cidr", "Intercepted destinations, * for all, empty for none.", "i", "*", "istio-service-cidr", ""),
    Flag("service-exclude-cidr", "Destinations that are not intercepted.", "x", "", "istio-service-exclude-cidr"),
    Flag("outbound-ports", "Outbound ports that are always intercepted.", "q", "", "istio-outbound-ports"),
    Flag(
        "local-outbound-ports-exclude", "Outbound ports that are not intercepted.", "o", "",
        "istio-local-outbound-ports-exclude",
    ),
    Flag("kube-virt-interfaces", "Interfaces of virtual machines, whose traffic is outbound.", "k", ""),
    Flag("inbound-tproxy-mark", "The mark of connections in TPROXY mode.", "t", "1337", "istio-inbound-tproxy-mark"),
    Flag("inbound-tproxy-route-table", "The routes that they use.", "r", "133", "istio-inbound-tproxy-route-table"),
    Flag("outbound-owner-groups", "Only traffic of these groups is intercepted, * for all.", "", "*"),
    Flag("outbound-owner-groups-exclude", "Traffic of these groups is not intercepted.", "", ""),
    Flag("iptables-probe-port", "The port to which --run-validation connects.", "", "15002"),
    Flag("probe-timeout", "How long --run-validation waits.", "", "5s"),
    Flag("network-namespace", "The network namespace to change, as a path.", "", ""),
    Flag("redirect-dns", "Lead queries to the name servers of /etc/resolv.conf to the proxy's port 15053.", "", None),
    Flag("capture-all-dns", "Lead all queries there.", "", None),
    Flag("drop-invalid", "Drop packets that connection tracking calls invalid.", "", None),
    Flag("dry-run", "Print what would be applied; needs no privilege.", "n", None),
    Flag("skip-rule-apply", "Apply nothing; for --run-validation.", "", None),
    Flag("run-validation", "Prove the interception by a connection; exit 126 if that fails.", "", None),
    Flag("cleanup-only", "Remove all rules of an interception, whatever their options.", "", None),
)  # fmt: skip
"""All of them, in the order in which --help shows them."""

IGNORED = ("dual-stack", "reconcile", "force-apply")
"""Switches of Istio's that ask for what is always done here."""

REFUSED = ("cni-mode",)
"""Switches of Istio's for what is not done here."""


def defaults(environment: Mapping[str, str], *, plain: bool) -> dict[str, str]:
    """Return the texts that are not given: of the environment, else the defaults, Istio's own if `plain`."""
    texts = {}
    for flag in FLAGS:
        if flag.default is None:
            continue
        default = flag.plain if plain and flag.plain is not None else flag.default
        texts[flag.name] = environment.get(flag.variable, default)
    return texts
