"""prometheus-redis-exporter, as Debian has it and unchanged: it scrapes Holdfast as it scrapes a Valkey."""
import re
import shutil
import urllib.request

import pytest

from harness import PATIENCE, Process, eventually, free_port, wait_until

# The connections of replicas are not shown (proxy/DIFFERENCES.md: INFO and ROLE).
NOT_THROUGH_US = {"redis_connected_slave_lag_seconds", "redis_connected_slave_offset_bytes"}


class Exporter(Process):
    def __init__(self, rig, *options):
        super().__init__(rig.dir / "exporter", "exporter")
        rig.things.append(self)
        program = shutil.which("prometheus-redis-exporter")
        assert program, "make deps installs it"
        self.port = free_port()
        self.spawn([program, "-web.listen-address", f"127.0.0.1:{self.port}", "-redis.addr", "", *options])
        wait_until(lambda: self.get("/health") is not None, 20, lambda: f"the exporter answers: {self.text()}")

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20 * PATIENCE) as answer:
                return answer.read().decode()
        except OSError:
            return None

    def scrape(self, port):
        """{metric with its labels: value}"""
        text = self.get(f"/scrape?target=redis://127.0.0.1:{port}")
        assert text is not None, self.text()[-2000:]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line and not line.startswith("#")}


OPTIONS = ("-check-keys", "db0=k*", "-count-keys", "db0=k*", "-export-client-list", "-include-system-metrics", "-set-client-name")


def names(metrics):
    return {m.partition("{")[0] for m in metrics}


def good(exporter, metrics):
    assert metrics["redis_up"] == 1
    assert [v for m, v in metrics.items() if m.startswith("redis_exporter_last_scrape_error")] == [0]
    wrong = [line for line in exporter.text().splitlines() if re.search(r"level=(error|warning|fatal)", line)]
    assert not wrong, wrong


@pytest.fixture
def exporter(rig):
    return Exporter(rig, *OPTIONS)


def test_it_finds_what_it_finds_in_a_valkey(rig, exporter):
    bare = rig.valkey()
    _, h = rig.pair()
    for one in (bare, h):
        with one.client() as c:
            for n in range(10):
                c("SET", f"k{n}", "v" * n, *(["EX", 1000] if n < 4 else []))
            c.ask("INCR", "k1")
            c("CONFIG", "SET", "slowlog-log-slower-than", 0)
    ours, theirs = exporter.scrape(h.port), exporter.scrape(bare.port)
    good(exporter, ours)
    assert len(names(theirs)) > 100 and names(theirs) - names(ours) <= NOT_THROUGH_US, names(theirs) - names(ours)
    for m in ('redis_db_keys{db="db0"}', 'redis_db_keys_expiring{db="db0"}', "redis_connected_slaves", "redis_config_maxclients",
              'redis_key_size{db="db0",key="k7"}', 'redis_keys_count{db="db0",key="k*"}', "redis_memory_max_bytes"):
        assert ours[m] == theirs[m], (m, ours[m], theirs[m])
    assert ours["redis_slowlog_length"] > 0 and ours['redis_key_size{db="db0",key="k7"}'] == 7


def test_of_every_node_of_a_group(rig, exporter):
    """By any node's port it sees the leader; by reader-port that node, also its own clients. The connection of each scrape has a name."""
    g = rig.group()
    leader = g.leader()
    with leader.client() as c, leader.client() as also:
        for n in range(10):
            c("SET", f"k{n}", n)
        assert also("PING") == b"PONG"
        g.wait_equal()
        for m in g:
            for port in (m.port, m.reader_port):
                got = exporter.scrape(port)
                good(exporter, got)
                assert got['redis_db_keys{db="db0"}'] >= 10 and got['redis_keys_count{db="db0",key="k*"}'] == 10, (m.name, port)
                assert any('name="redis_exporter"' in label for label in got if label.startswith("redis_connected_clients_details")), (m.name, port)
                info = next(label for label in got if label.startswith("redis_instance_info"))
                assert 'role="master"' in info or port == m.reader_port, info
        eventually(lambda: exporter.scrape(leader.port)["redis_connected_clients"], lambda n: n == 3, 20, "ours, and its own")
    with leader.client() as c:
        c("ACL", "SETUSER", "watcher", "on", ">p", "~*", "+info", "+config|get", "+client|setname", "+slowlog", "+latency", "+client|list", "+scan", "+type",
          "+strlen", "+get", "+pfcount", "+memory|usage", "+select", "+ping")
    restricted = Exporter(rig, *OPTIONS, "-redis.user", "watcher", "-redis.password", "p")
    good(restricted, restricted.scrape(leader.port))
