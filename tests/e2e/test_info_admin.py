"""What Holdfast says of itself: INFO, /metrics, /status, /healthz, /readyz, while it serves, stalls, and has no Valkey."""
import contextlib
import json
import re
import socket
import time

import pytest

from harness import eventually, is_error, wait_until
from resp import info_fields

FIELDS = ["version", "state", "ready", "mode", "lag_ms", "lag_max_ms", "term", "log_index", "log_committed", "log_first_index", "log_bytes",
          "log_size_max_bytes", "pending_bytes", "log_stalled", "refusing_writes", "pending_intents", "tainted_keys", "waiting_replies", "writes_sync",
          "writes_captured", "writes_async", "writes_rejected", "writes_uncertain", "effects_ref", "effects_raw", "rebuilds", "snapshot_index"]
SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*"(?:,[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*")*\})? '
                    r'(NaN|[+-]?Inf|[+-]?[0-9.]+(?:e[+-]?[0-9]+)?)$')


def parse_metrics(text):
    """Strictly as the text format is: (samples, types). Every sample has a type and help, each family once, in one piece."""
    samples, types, helps, family = {}, {}, set(), None
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ")[2]
            assert name not in helps, f"{name} twice"
            helps.add(name)
            family = name
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family and kind in ("counter", "gauge", "histogram", "summary", "untyped")
            types[name] = kind
        else:
            match = SAMPLE.match(line)
            assert match, line
            name, labels, value = match.groups()
            base = re.sub(r"_(bucket|sum|count)$", "", name) if types.get(family) == "histogram" else name
            assert base == family, f"{name} is not under its family"
            assert (name, labels) not in samples, line
            samples[name, labels] = float(value)
            if types[family] == "counter":
                assert name.endswith("_total"), name
    for name, kind in types.items():
        if kind == "histogram":
            buckets = [v for (n, _), v in samples.items() if n == f"{name}_bucket"]
            assert buckets == sorted(buckets) and buckets[-1] == samples[f"{name}_count", None], name
    return samples, types


def test_info_durability(rig):
    valkey, h = rig.pair()
    with h.client() as c, h.client(proto=3) as d:
        for n in range(10):
            c("SET", f"k{n}", n)
        c("EVAL", "return redis.call('INCR', 'e')", 0)
        fields = info_fields(c("INFO", "durability"))
        assert all(f"holdfast_{name}" in fields for name in FIELDS), [n for n in FIELDS if f"holdfast_{n}" not in fields]
        assert fields["holdfast_state"] == "serving" and fields["holdfast_mode"] == "sync" and fields["holdfast_ready"] == "1"
        assert int(fields["holdfast_writes_sync"]) >= 10
        assert int(fields["holdfast_effects_ref"]) >= 10
        assert int(fields["holdfast_log_committed"]) >= 1
        text = c("INFO").decode()
        assert "# Durability\r\n" in text and "# Server\r\n" in text and "used_memory:" in text
        for section in ("default", "all", "everything"):
            assert "# Durability\r\n" in c("INFO", section).decode(), section
        assert "# Durability" not in c("INFO", "server").decode()
        assert "used_memory" not in c("INFO", "durability").decode()
        both = c("INFO", "durability", "memory").decode()
        assert "# Durability" in both and "used_memory:" in both
        assert b"# Durability" in d("INFO", "Durability")


def test_metrics_and_status_while_serving(rig):
    valkey, h = rig.pair()
    with h.client() as c:
        for n in range(20):
            c("SET", f"k{n}", n)
        assert h.http("/healthz")[0] == 200
        assert h.http("/readyz")[0] == 200
        code, text = h.http("/metrics")
        assert code == 200
        samples, types = parse_metrics(text)
        assert samples["holdfast_ready", None] == 1
        assert samples["holdfast_state", '{state="serving"}'] == 1
        assert sum(v for (n, _), v in samples.items() if n == "holdfast_state") == 1
        assert samples["holdfast_writes_sync_total", None] >= 20
        assert samples["holdfast_connected_sessions", None] >= 1
        assert samples["holdfast_commit_seconds_count", None] >= 1
        assert {name for name, _ in samples if not name.startswith("holdfast_")} == {"DurabilityLag", "DurabilityBufferExceededErrorCount"}
        for n in range(5):
            c("SET", "more", n)
        later, _ = parse_metrics(h.http("/metrics")[1])
        for key, value in samples.items():
            if types.get(key[0]) == "counter":
                assert later[key] >= value, f"{key} fell"
        assert later["holdfast_writes_sync_total", None] >= samples["holdfast_writes_sync_total", None] + 5
        status = h.status()
        assert all(name in status for name in FIELDS)
        assert status["state"] == "serving" and status["ready"] is True and status["settings"]["durability"] == "sync"
        assert status["valkey_version"] and len(status["valkey_run_id"]) == 40


def test_http_manners(rig):
    _, h = rig.pair()
    assert h.http("/nowhere")[0] == 404
    assert h.http("/metrics", "POST")[0] == 405
    assert h.http("/status", "DELETE")[0] == 405
    assert h.http("/metrics", "HEAD") == (200, "")
    with pytest.raises(AssertionError):
        parse_metrics("not a metric\n")
    with socket.create_connection(("127.0.0.1", h.admin_port), timeout=20) as s:  # answers do not pile up for who does not read
        s.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while more := s.recv(65536):
                answer += more
        assert answer.count(b"HTTP/1.1 200") == 1, "one request for each connection"


def test_while_the_log_is_stalled(rig):
    valkey = rig.valkey()
    h = rig.holdfast(valkey, disk=True, durability="async", durability_lag_max="500ms")
    with h.client(timeout=30) as c:
        c("SET", "k", 1)
        h.disk.set("stall")
        eventually(lambda: c.ask("SET", "k", 2), lambda r: is_error(r, "CLUSTERDOWN"), 20, "refused")
        code, body = h.http("/readyz")
        assert code == 503 and ("lag" in body or "durable" in body or "log" in body), body
        assert h.http("/healthz")[0] == 200
        samples, _ = parse_metrics(h.http("/metrics")[1])
        assert samples["holdfast_ready", None] == 0 and samples["holdfast_refusing_writes", None] == 1
        assert samples["holdfast_lag_seconds", None] >= 0.5
        assert samples["holdfast_writes_rejected_total", None] >= 1
        fields = h.info()
        assert fields["holdfast_refusing_writes"] == "1" and int(fields["holdfast_lag_ms"]) >= 500
        assert fields["holdfast_state"] == "serving"
        h.disk.set("")
        wait_until(h.ready, 10, "ready again")
        assert h.info()["holdfast_refusing_writes"] == "0"


def test_while_valkey_is_dead(rig):
    valkey, h = rig.pair()
    with h.client(timeout=30) as c:
        c("SET", "k", 1)
        valkey.kill9()
        wait_until(lambda: h.http("/readyz")[0] == 503, 10, "not ready")
        assert "not serving" in h.http("/readyz")[1]
        assert h.http("/healthz")[0] == 200
        samples, _ = parse_metrics(h.http("/metrics")[1])
        assert samples["holdfast_ready", None] == 0 and samples["holdfast_state", '{state="serving"}'] == 0
        assert json.loads(h.http("/status")[1])["state"] != "serving"
        reply = c.ask("INFO", "durability")
        assert is_error(reply, "LOADING") or b"holdfast_state" in reply
        assert is_error(c.ask("PING"), "LOADING")
        before = h.status()["rebuilds"]
        valkey.restart_empty()
        h.wait_ready()
        status = h.status()
        assert status["rebuilds"] == before + 1 and status["last_rebuild_why"]
        assert abs(status["last_rebuild_unix_ms"] / 1000 - time.time()) < 60
        assert c("GET", "k") == b"1"


def test_counts_of_what_was_refused_and_uncertain(rig):
    valkey = rig.valkey()
    h = rig.holdfast(valkey, disk=True, durability="sync", durability_lag_max="500ms")
    with h.client(timeout=30) as c:
        c("SET", "k", 1)
        h.disk.set("stall")
        assert is_error(c.ask("SET", "k", 2), "UNCERTAIN")
        assert is_error(c.ask("SET", "k", 3), "CLUSTERDOWN")
        status = h.status()
        assert status["writes_uncertain"] == 1 and status["writes_rejected"] == 1, status
        h.disk.set("")
        wait_until(h.ready, 10, "ready again")
