"""Prometheus itself: it scrapes our port, its tool accepts our rules, and an alert comes and goes with a stalled log."""
import json
import pathlib
import re
import shutil
import subprocess
import time

import pytest

from harness import PATIENCE, is_error, wait_until
from watchers import Prometheus

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "config"
NAME = re.compile(r"\b(?:holdfast_[a-z_]+|DurabilityLag|DurabilityBufferExceededErrorCount)\b")


def promtool(*words, stdin=None):
    assert shutil.which("promtool"), "make deps installs it"
    done = subprocess.run(["promtool", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, input=stdin, text=True, timeout=60 * PATIENCE)
    return done.returncode, done.stdout


def metric_names(text):
    families = set(re.findall(r"^# TYPE (\S+)", text, re.M))
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)", text, re.M))
    return families | {f"{n}_{end}" for n in families if kinds[n] == "histogram" for end in ("bucket", "sum", "count")}


@pytest.fixture
def group(rig):
    """Three nodes, and what each says under load; leadership stays where it is."""
    g = rig.group(durability="async", durability_lag_max="1s", election_timeout="2s")
    yield g, g.leader()


def test_rules_and_dashboard_name_our_metrics(rig):
    code, text = promtool("check", "rules", str(CONFIG / "alerts.yml"))
    assert code == 0, text
    _, holdfast = rig.pair()
    there = holdfast.http("/metrics")[1]
    names = metric_names(there)
    members_only = {n for n in re.findall(r"holdfast_peer_\w+", (CONFIG / "alerts.yml").read_text() + (CONFIG / "grafana.json").read_text())}
    for file in ("alerts.yml", "grafana.json"):
        named = set(NAME.findall((CONFIG / file).read_text()))
        assert len(named) > 10
        assert named - members_only <= names, f"{file}: {named - members_only - names}"
    dashboard = json.loads((CONFIG / "grafana.json").read_text())
    ids = [p["id"] for p in dashboard["panels"]]
    assert len(ids) == len(set(ids)) > 10 and all(p["targets"] for p in dashboard["panels"])
    code, text = promtool("check", "metrics", stdin=there)
    wrong = [line for line in text.splitlines() if not line.startswith("Durability")]
    assert not wrong, wrong  # the two names of the cloud service are not Prometheus' style


def test_scraped_and_alerted(rig, group):
    g, leader = group
    assert set(NAME.findall((CONFIG / "grafana.json").read_text())) <= metric_names(leader.http("/metrics")[1]), "a group's metrics, too"
    prometheus = Prometheus(rig.dir / "prometheus", [m.admin_port for m in g])
    rig.things.append(prometheus)
    wait_until(lambda: prometheus.value("count(up==1)") == 3, 30, "three nodes are scraped")
    with leader.client() as c:
        for n in range(20):
            c("SET", "k", n)
    wait_until(lambda: (prometheus.value("sum(holdfast_writes_async_total)") or 0) >= 20, 20, "writes are counted")
    assert prometheus.value('sum(holdfast_role{role="leader"})') == 1
    assert not prometheus.firing() & {"HoldfastWritesRefused", "HoldfastDetached", "HoldfastNoLeader"}

    for m in g.others(leader):
        g.pause(m)
    with leader.client() as c:
        c("SET", "k", "not logged")
        wait_until(lambda: is_error(c.ask("SET", "k", 2), "CLUSTERDOWN"), 15, "writes are refused", every=0.05)
        refused = time.monotonic()
        wait_until(lambda: {"HoldfastWritesRefused", "HoldfastDetached"} <= prometheus.firing(), 4, "the alerts fire", every=0.05)
        print(f"alert {time.monotonic() - refused:.2f} s after the first refusal")
        assert prometheus.value("max(DurabilityLag)") >= 1000 and prometheus.value("max(DurabilityBufferExceededErrorCount)") >= 1
        for m in g.others(leader):
            g.resume(m)
        wait_until(lambda: not prometheus.firing() & {"HoldfastWritesRefused", "HoldfastDetached"}, 20, "the alerts end", every=0.05)
