"""Generates the Grafana dashboard from the metric definitions.

A selector of a metric, label or label value that no scrape contains raises `KeyError`. The description of a panel is
the help text of its metrics.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from docs.generator.metric_names import metric_names

Json = dict[str, Any]

WITHOUT_PANEL = {
    "process_max_fds": "part of the query for process_open_fds, where Prometheus calculates the share",
    "process_start_time_seconds": "the epoch and the version show a restart of the agent",
    "process_virtual_memory_bytes": "no limit applies to it",
    "proxy_agent_certificate_not_before_timestamp_seconds": "for the alert rules",
    "proxy_agent_last_rotation_success_timestamp_seconds": "the attempts are shown by time",
    "proxy_agent_watch_mode": "it does not change while the agent runs",
}
"""The metrics that no panel has to show, each with the reason."""

_METRICS = {metric.name: metric for metric in metric_names()}
_DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_TARGET = "{{pod}} {{instance}}"  # `pod` is empty outside Kubernetes
_HOUR, _DAY = 3_600, 86_400
_GREEN, _YELLOW, _RED = "green", "yellow", "red"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: `kind` is a type of Grafana, `unit` one of its unit ids, `width` is in columns of 24.

    `queries`: expressions by their legends. `steps`: a colour from each value on. `words`: text and colour of a value.
    """

    title: str
    kind: str
    width: int
    queries: dict[str, str]
    unit: str = "short"
    steps: tuple[tuple[float | None, str], ...] = ((None, _GREEN),)
    words: tuple[tuple[str, str, str], ...] = ()

    def metrics(self) -> list[str]:
        """Return the names of the metrics that the queries read, without the suffixes of a histogram's series."""
        found = [name for expr in self.queries.values() for name in re.findall(r"([a-z_]+)\{", expr)]
        return list(dict.fromkeys(name for each in found if (name := _defined(each)) in _METRICS))

    def description(self) -> str:
        """Return the help text of the metrics."""
        return " ".join(_METRICS[name].help for name in self.metrics())


def dashboard() -> str:
    """Return the dashboard as the JSON that Grafana imports."""
    return json.dumps(_document(), indent=1) + "\n"


def panels() -> list[Panel]:
    """Return all panels in their order."""
    return [panel for row in _rows().values() for panel in row]


def select(name: str, /, **labels: str) -> str:
    """Return the selector of a metric at the chosen targets. A value that begins with `!` is excluded."""
    metric = _METRICS[_defined(name)]
    matchers = ['job=~"$job"', 'instance=~"$instance"']
    for label, value in labels.items():
        plain = value.removeprefix("!")
        if f"`{plain}`" not in metric.labels[label]:
            raise KeyError(f'{name}{{{label}="{plain}"}}')
        matchers.append(f'{label}{"!=" if value != plain else "="}"{plain}"')
    return f"{name}{{{', '.join(matchers)}}}"


def _defined(name: str) -> str:
    """Return the name under which a series is defined: a histogram's has suffixes."""
    return name if name in _METRICS else re.sub(r"_(bucket|sum|count)$", "", name)


# Expressions


def _increase(name: str, by: str, /, **labels: str) -> str:
    return f"sum by ({by}) (increase({select(name, **labels)}[$__rate_interval]))"


def _quantile(share: float, name: str, by: str, /, **labels: str) -> str:
    """Return a quantile of a histogram over the whole range: rotations are too rare for shorter times."""
    return f"histogram_quantile({share}, sum by ({by}) (increase({select(f'{name}_bucket', **labels)}[$__range])))"


def _mean_until_served() -> str:
    name, by = "proxy_agent_rotation_phase_duration_seconds", "sum without (phase)"
    spent = f"{by} (increase({select(f'{name}_sum', phase='!drain')}[$__range]))"
    count = f"{by} (increase({select(f'{name}_count', phase='handover')}[$__range]))"
    return f"{spent} / {count}"


def _process(name: str, form: str = "{}") -> str:
    """Return a metric of the agent's process in a form; beside an application's metrics it has a prefix."""
    selector = select(name)
    return f"({form.format(f'proxy_agent_{selector}')} or {form.format(selector)})"


def _out_of_sync() -> str:
    since = select("proxy_agent_out_of_sync_since_timestamp_seconds")
    return f"(time() - {since}) * ({since} > bool 0)"


def _expiry(**labels: str) -> str:
    return select("proxy_agent_certificate_not_after_timestamp_seconds", **labels)


def _date(source: str) -> str:
    """Return the expiry of the leaves in milliseconds, with the labels of `certificate_in_sync`."""
    return f"max without (role, source) ({_expiry(role='leaf', source=source)}) * 1000"


# Panels


def _rows() -> dict[str, list[Panel]]:
    return {
        "Now": _now(),
        "Rotations": _rotations(),
        "Certificates": _certificates(),
        "Crashes": _crashes(),
        "Refusals and delays": _refusals(),
        "Connections": _connections(),
        "Resources": _resources(),
    }


_YES_NO = (("1", "yes", _GREEN), ("0", "no", _RED))
_NO_YES = (("0", "no", _GREEN), ("1", "yes", _RED))
_EXPIRES = ((None, _RED), (2 * _DAY, _YELLOW), (14 * _DAY, _GREEN))


def _now() -> list[Panel]:
    refused = f"sum without (set, reason) ({select('proxy_agent_files_refused')})"
    exits = select("proxy_agent_proxy_exits_total", state="serving", cause="!asked")
    crashes = f"sum without (state, cause) (increase({exits}[$__range]))"
    first = f"min without (set, role, source) ({_expiry(source='served')}) - time()"
    none, some, late = (None, _GREEN), (1, _RED), ((300, _YELLOW), (_HOUR, _RED))
    return [
        Panel("Serves", "stat", 4, {_TARGET: select("proxy_agent_ready")}, words=_YES_NO),
        Panel("Epoch", "stat", 4, {_TARGET: select("proxy_agent_epoch")}, "none"),
        Panel("Out of sync for", "stat", 4, {_TARGET: _out_of_sync()}, "s", (none, *late)),
        Panel("First expiry", "stat", 4, {_TARGET: first}, "s", _EXPIRES),
        Panel("Refused files", "stat", 4, {_TARGET: refused}, "none", (none, some)),
        Panel("Crashes", "stat", 4, {_TARGET: crashes}, steps=(none, some)),
    ]


def _rotations() -> list[Panel]:
    attempts = "proxy_agent_rotations_total"
    failures = _increase("proxy_agent_rotation_failures_total", "phase, reason")
    phases = _quantile(0.95, "proxy_agent_rotation_phase_duration_seconds", "phase, le", phase="!drain")
    pushes = _quantile(0.95, "proxy_agent_push_duration_seconds", "le")
    return [
        Panel("Attempts by outcome", "bars", 8, {"{{outcome}}": _increase(attempts, "outcome")}),
        Panel("Attempts by trigger", "bars", 8, {"{{trigger}}": _increase(attempts, "trigger")}),
        Panel("Failed attempts", "bars", 8, {"{{phase}} {{reason}}": failures}),
        Panel("Mean duration until an epoch serves", "timeseries", 12, {_TARGET: _mean_until_served()}, "s"),
        Panel("Duration of a phase, 95th percentile", "timeseries", 12, {"{{phase}}": phases}, "s"),
        Panel("Pushes by result", "bars", 12, {"{{result}}": _increase("proxy_agent_pushes_total", "result")}),
        Panel("Duration of a push, 95th percentile", "timeseries", 12, {"all": pushes}, "s"),
    ]


def _certificates() -> list[Panel]:
    left = f"{_expiry(source='served')} - time()"
    columns = {
        "served until": _date("served"),
        "on disk until": _date("disk"),
        "in sync": select("proxy_agent_certificate_in_sync"),
    }
    return [
        Panel("Time to expiry", "timeseries", 12, {f"{{{{set}}}} {{{{role}}}} {_TARGET}": left}, "s", _EXPIRES),
        Panel("Certificates", "table", 12, columns, "dateTimeAsIso"),
    ]


def _crashes() -> list[Panel]:
    exits = "proxy_agent_proxy_exits_total"
    serving = _increase(exits, "cause", state="serving", cause="!asked")
    others = _increase(exits, "state, cause", state="!serving")
    held = f"increase({select('proxy_agent_hold_seconds_total')}[$__rate_interval])"
    return [
        Panel("Crashes by cause", "bars", 6, {"{{cause}}": serving}),
        Panel("Exits of other epochs", "bars", 6, {"{{state}} {{cause}}": others}),
        Panel("Time in which clients waited", "bars", 6, {_TARGET: held}, "s"),
        Panel("Hangs", "state-timeline", 6, {_TARGET: select("proxy_agent_proxy_hung")}, words=_NO_YES),
    ]


def _refusals() -> list[Panel]:
    refused = {f"{{{{reason}}}} {{{{set}}}} {_TARGET}": select("proxy_agent_files_refused")}
    blocked = {"{{reason}}": f"sum by (reason) ({select('proxy_agent_rotation_blocked')})"}
    return [
        Panel("Refused files by reason", "timeseries", 12, refused),
        Panel("Agents with a blocked rotation", "timeseries", 12, blocked),
    ]


def _connections() -> list[Panel]:
    cut = _increase("proxy_agent_connections_closed_total", "cause")
    queue = {f"{{{{address}}}} {_TARGET}": select("proxy_agent_listener_queue_length")}
    overflows = f"increase({select('proxy_agent_listener_overflows_total')}[$__rate_interval])"
    drain = _quantile(0.95, "proxy_agent_rotation_phase_duration_seconds", "le", phase="drain")
    return [
        Panel("Connections cut", "bars", 8, {"{{cause}}": cut}),
        Panel("Clients in the accept queue", "timeseries", 8, queue),
        Panel("Clients rejected by a full queue", "bars", 8, {_TARGET: overflows}),
        Panel("Epochs", "timeseries", 12, {"{{state}}": f"sum by (state) ({select('proxy_agent_epochs')})"}),
        Panel("Duration of a drain, 95th percentile", "timeseries", 12, {"all": drain}, "s"),
    ]


def _resources() -> list[Panel]:
    memory = {
        f"agent {_TARGET}": _process("process_resident_memory_bytes"),
        f"{{{{state}}}} {_TARGET}": select("proxy_agent_proxy_resident_memory_bytes"),
    }
    cpu = _process("process_cpu_seconds_total", "rate({}[$__rate_interval])")
    files = f"{_process('process_open_fds')} / {_process('process_max_fds')}"
    lag = _quantile(0.99, "proxy_agent_event_loop_lag_seconds", "le")
    failures = {"{{source}}": _increase("proxy_agent_scrape_failures_total", "source")}
    version = {"{{version}}, Python {{python}}": f"sum by (version, python) ({select('proxy_agent_build_info')})"}
    return [
        Panel("Resident memory", "timeseries", 12, memory, "bytes"),
        Panel("Processor of the agent", "timeseries", 12, {_TARGET: cpu}, "percentunit"),
        Panel("Open file descriptors", "timeseries", 6, {_TARGET: files}, "percentunit"),
        Panel("Lag of the event loop, 99th percentile", "timeseries", 6, {"all": lag}, "s"),
        Panel("Sources missing from a scrape", "bars", 6, failures),
        Panel("Agents by version", "stat", 6, version, "none"),
    ]


# Grafana's model: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/


def _document() -> Json:
    return {
        "uid": "proxy-agent",
        "title": "proxy-agent",
        "description": "Serving, rotations, certificates, crashes and refusals. Generated by docs/reference.py.",
        "tags": ["envoy", "proxy-agent"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # a shared crosshair
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "panels": list(_placed()),
    }


def _variables() -> list[Json]:
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    targets = select("proxy_agent_build_info").replace(', instance=~"$instance"', "")
    return [
        source,
        _variable("job", "Job", "label_values(proxy_agent_build_info, job)"),
        _variable("instance", "Instance", f"label_values({targets}, instance)"),
    ]


def _variable(name: str, label: str, query: str) -> Json:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _DATA_SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # when the time range changes: targets come and go
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _placed() -> Iterator[Json]:
    """Yield every row and panel with its id and its place: rows of panels fill the 24 columns."""
    number, top = 1, 0
    for title, row in _rows().items():
        place = {"x": 0, "y": top, "w": 24, "h": 1}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": place}
        number, top, left = number + 1, top + 1, 0
        height = 4 if title == "Now" else 8
        for panel in row:
            if left == 24:
                left, top = 0, top + height
            place = {"x": left, "y": top, "w": panel.width, "h": height}
            yield {"id": number, **_model(panel), "gridPos": place}
            number, left = number + 1, left + panel.width
        top += height


def _model(panel: Panel) -> Json:
    return {
        "type": "timeseries" if panel.kind == "bars" else panel.kind,
        "title": panel.title,
        "description": panel.description(),
        "datasource": _DATA_SOURCE,
        "targets": [_target(panel, index) for index in range(len(panel.queries))],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": _options(panel),
        **({"transformations": _columns(panel)} if panel.kind == "table" else {}),
    }


def _target(panel: Panel, index: int) -> Json:
    legend, expr = list(panel.queries.items())[index]
    table = panel.kind == "table"
    return {
        "refId": _letter(index),
        "datasource": _DATA_SOURCE,
        "expr": expr,
        "legendFormat": legend,
        "instant": table,
        "range": not table,
        **({"format": "table"} if table else {}),
    }


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _defaults(panel: Panel) -> Json:
    steps = [{"value": value, "color": color} for value, color in panel.steps]
    defaults: Json = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.words:
        options = {value: {"text": text, "color": color} for value, text, color in panel.words}
        defaults["mappings"] = [{"type": "value", "options": options}]
    if panel.kind in {"bars", "timeseries"}:
        bars = panel.kind == "bars"
        if panel.title != "Time to expiry":  # it may be negative
            defaults["min"] = 0
        style = {"drawStyle": "bars" if bars else "line", "fillOpacity": 60 if bars else 10}
        defaults["custom"] = {**style, "stacking": {"mode": "normal" if bars else "none"}}
        if len(panel.steps) > 1:
            defaults["custom"]["thresholdsStyle"] = {"mode": "line"}
    return defaults


def _overrides(panel: Panel) -> list[Json]:
    """Show the last column of the table, which is no date, in words."""
    if panel.kind != "table":
        return []
    options = {value: {"text": text, "color": color} for value, text, color in _YES_NO}
    properties = [{"id": "unit", "value": "none"}, {"id": "mappings", "value": [{"type": "value", "options": options}]}]
    return [{"matcher": {"id": "byName", "options": list(panel.queries)[-1]}, "properties": properties}]


def _options(panel: Panel) -> Json:
    if panel.kind == "stat":
        text = "value_and_name" if panel.title == "Agents by version" else "auto"
        return {
            "reduceOptions": {"calcs": ["lastNotNull"]},
            "colorMode": "background",
            "graphMode": "none",
            "textMode": text,
        }
    if panel.kind in {"bars", "timeseries"}:
        return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.kind == "state-timeline":
        return {"showValue": "never", "mergeValues": True}
    return {"showHeader": True}


def _columns(panel: Panel) -> Sequence[Json]:
    """Join the queries' frames by their labels; each value is a column with the legend as its name."""
    names = {f"Value #{_letter(index)}": legend for index, legend in enumerate(panel.queries)}
    order = ["set", "pod", "instance", *names]
    hidden = dict.fromkeys(("Time", "__name__", "container", "endpoint", "job", "namespace"), True)
    places = {name: index for index, name in enumerate(order)}
    organize = {"renameByName": names, "excludeByName": hidden, "indexByName": places}
    return [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]
