"""What Prometheus would make of real daemons: their /metrics as it reads them, and alerts as its own promtool judges
them."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from tests.sockets.daemons import Daemon, call

ETC = Path(__file__).parents[2] / "etc"
ALERTS = ETC / "prometheus" / "alerts.yml"
DASHBOARD = ETC / "grafana" / "dashboard.json"

MINUTES = 200
"""How long what was seen goes on: longer than the longest ``for`` of an alert."""

TRIES, TRY_S = 6, 2.0

WORDS = re.compile(r"\b(?:kv|process|python)_[a-z0-9_]+")
GROUPING = re.compile(r"(?:by|without) \([^)]*\)")


class Sample(NamedTuple):
    value: float
    counts_up: bool


def names_in(text: str) -> set[str]:
    """The metrics that an expression, or a file of them, names."""
    return set(WORDS.findall(GROUPING.sub("", text)))


def families(daemon: Daemon, **headers: str) -> dict[str, str]:
    """Every series' name that a daemon's /metrics may show, with its family's kind."""
    found: dict[str, str] = {}
    for family in text_string_to_metric_families(call("GET", f"{daemon.url}/metrics", None, **headers).body.decode()):
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        found |= {family.name + ending: family.type for ending in endings}
    return found


def scraped(proxies: Iterable[Daemon], nodes: Iterable[Daemon]) -> dict[str, Sample]:
    """What Prometheus has after one look at all of them, by the series' names with their labels."""
    found: dict[str, Sample] = {}
    for job, daemons in (("kvproxy", proxies), ("kvnode", nodes)):
        for daemon in daemons:
            place = {"job": job, "instance": f"127.0.0.1:{daemon.port}"}
            text = metrics_of(daemon)
            found[series("up", place)] = Sample(float(bool(text)), False)
            for family in text_string_to_metric_families(text):
                for name, labels, value, *_ in family.samples:
                    counts_up = family.type in ("counter", "histogram") and not name.endswith("_created")
                    found[series(name, {**labels, **place})] = Sample(value, counts_up)
    return found


def metrics_of(daemon: Daemon) -> str:
    """What a daemon shows, empty if it does not: it is asked a few times, since a worker that hangs may have the port's
    next connection."""
    for _ in range(TRIES if daemon.process is not None else 0):
        try:
            with urllib.request.urlopen(f"{daemon.url}/metrics", timeout=TRY_S) as answer:
                return str(answer.read().decode())
        except OSError:
            continue
    return ""


def series(name: str, labels: dict[str, str]) -> str:
    return f"{name}{{{','.join(f'{label}={json.dumps(value)}' for label, value in labels.items())}}}"


def firing(before: dict[str, Sample], after: dict[str, Sample], folder: Path) -> set[str]:
    """Name the alerts that fire when what has happened between two looks goes on for hours: what is counted grows as it
    did, and everything else stays as it is."""
    promtool = shutil.which("promtool")
    assert promtool, "this test needs Debian's promtool: apt-get install prometheus"
    rows = []
    for name, (value, counts_up) in after.items():
        was = before[name].value if name in before else 0.0
        if math.isfinite(value):
            start, step = (was, max(0.0, value - was)) if counts_up else (value, 0.0)
            rows.append({"series": name, "values": f"{start!r}+{step!r}x{MINUTES}"})
    question = {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": f"{MINUTES}m"}
    test = {"interval": "1m", "input_series": rows, "promql_expr_test": [{**question, "exp_samples": []}]}
    file = folder / "alerts.test.yml"
    file.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [test]}))
    run = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    said = run.stdout + run.stderr
    # It was told that none fires, and names those that do.
    found = set(re.findall(r'alertname=\\?"(\w+)', said))
    assert bool(found) == (run.returncode != 0), said
    assert "SUCCESS" in said or found, said
    return found
