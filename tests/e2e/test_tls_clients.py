"""TLS between clients and Holdfast, and between Holdfast and Valkey: who is let in, who is not and why, certificates that change under
load, and a group where nothing is plain."""
import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest
import redis

from certificates import CERTS, Authority, Certificate, Tls
from harness import PATIENCE, Valkey, free_port, tool, wait_until
from resp import Client, Closed, RespError, encode

ATTEMPTS_AT_ONCE = 150  # more than handshakes may be under way


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"), "ca")


@pytest.fixture(scope="module")
def other(ca):
    return Authority(ca.dir, "other-ca")


@pytest.fixture(scope="module")
def server(ca):
    return ca.issue("server")


@pytest.fixture(scope="module")
def alice(ca):
    return ca.issue("alice", usage="clientAuth")


def of_clients(ca, cert, port=None, **more):
    return {"port": 0, "tls-port": port or free_port(), "tls-cert-file": cert.crt, "tls-key-file": cert.key, "tls-ca-cert-file": ca.crt,
            **{k.replace("_", "-"): v for k, v in more.items()}}


def holdfast(rig, ca, cert, valkey=None, reads=True, **more):
    """With TLS only, and h.port its port."""
    h = rig.holdfast(valkey or rig.valkey(), start=False)
    h.settings.update(of_clients(ca, cert, h.port, **more))
    h.start()
    return h


def failed(h):
    return h.status()["handshakes_failed"]


def refused(address):
    """Whoever is not let in, hears of it before the first reply."""
    try:
        with Client(address, timeout=10 * PATIENCE) as c:
            return c.ask("PING")
    except (ssl.SSLError, OSError, Closed):
        return None


def refusals(h):
    return re.findall(r"Error accepting a client connection: (.*) \(addr=", h.text())


def with_valkey_tls(valkey, ca, cert, **more):
    """Starts it again, with TLS alone (its Unix socket stays), on the port it had."""
    valkey.kill9()
    options = {"port": 0, "tls-port": valkey.port, "tls-cert-file": cert.crt, "tls-key-file": cert.key, "tls-ca-cert-file": ca.crt,
               "tls-replication": "yes", **{k.replace("_", "-"): v for k, v in more.items()}}
    valkey.options = [*valkey.options, *(w for k, v in options.items() for w in (f"--{k}", v))]
    valkey.client = lambda **o: Client(valkey.socket, **o)
    valkey.start()


def to_valkey(ca, cert=None, **more):
    own = {"valkey-tls-cert-file": cert.crt, "valkey-tls-key-file": cert.key} if cert else {}
    return {"valkey-tls": "yes", "valkey-tls-ca-cert-file": ca.crt, **own, **{k.replace("_", "-"): v for k, v in more.items()}}


def test_clients_of_every_kind(rig, ca, server, alice):
    """A raw client with a pipeline and with 64 MB, redis-py, valkey-cli; the port and the reader's port, and what is shown of them."""
    h = holdfast(rig, ca, server, tls_reader_port=(reader_port := free_port()), durability="async")
    address = Tls(h.port, ca, alice)
    with Client(address, timeout=60 * PATIENCE) as c:
        c.raw(b"".join(encode("INCR", "n") for _ in range(5000)))
        assert [c.read() for _ in range(5000)] == list(range(1, 5001))
        large = os.urandom(1 << 20) * 63
        assert c("SET", "large", large) == b"OK"
        c.send("GET", "large")
        c.send("PING")
        assert c.read() == large and c.read() == b"PONG"
        line = c("CLIENT", "LIST").decode()
        assert f"laddr=127.0.0.1:{h.port} " in line and f"laddr=127.0.0.1:{c.sock.inner.getsockname()[1]}" not in line
        assert f"addr=127.0.0.1:{c.sock.inner.getsockname()[1]} " in line
        assert c("CONFIG", "GET", "tls-key-file*")[2:] in ([b"tls-key-file-pass", b""], [b"tls-key-file", str(server.key).encode()])
        with Client(Tls(reader_port, ca, alice)) as r:
            assert r("GET", "n") == b"5000" and r.ask("SET", "n", "1").code == "READONLY"
            assert f"laddr=127.0.0.1:{reader_port} " in r("CLIENT", "LIST").decode()
        assert c("CONFIG", "SET", "maxclients", "1") == b"OK"
        assert refused(address) is None and c("PING") == b"PONG"
        assert c("CONFIG", "SET", "maxclients", "100") == b"OK"
    r = redis.Redis(port=h.port, host="localhost", ssl=True, ssl_ca_certs=str(ca.crt), ssl_certfile=str(alice.crt), ssl_keyfile=str(alice.key))
    with r.pipeline(transaction=True) as p:
        p.set("a", "1").incr("a")
        assert p.execute() == [True, 2]
    r.close()
    done = subprocess.run([tool("valkey-cli"), "-p", str(h.port), "--tls", "--cert", alice.crt, "--key", alice.key, "--cacert", ca.crt, "get", "a"],
                          capture_output=True, text=True, timeout=30)
    assert done.stdout == "2\n", done
    assert h.terminate() == 0


def test_whom_it_refuses(rig, ca, other, server, alice):
    """Each with a line that says why; and tls-auth-clients, tls-protocols while it runs."""
    h = holdfast(rig, ca, server)
    wrong = [
        (Tls(h.port, ca), "the other end has shown no certificate"),
        (Tls(h.port, ca, other.issue("foreign")), "the other end's certificate is not signed by our CA"),
        (Tls(h.port, ca, ca.issue("alone", own=True)), "the other end's certificate is self-signed"),
        (Tls(h.port, ca, ca.issue("old", days=(-2, -1))), "the other end's certificate has expired"),
        (Tls(h.port, ca, ca.issue("early", days=(1, 2))), "the other end's certificate is not yet valid"),
        (Tls(h.port, ca, ca.issue("half", usage="serverAuth")), "the other end's certificate is not meant for this use (clientAuth)"),
        (Tls(h.port, other, alice), "the other end refused TLS: unknown CA"),
        (h.port, "the other end does not speak TLS")]
    for i, (address, why) in enumerate(wrong):
        assert refused(address) is None, why
        wait_until(lambda: failed(h) == i + 1, 5, f"it is counted: {why}")
        assert refusals(h)[i].startswith(why), refusals(h)
    with Client(Tls(h.port, ca, alice)) as c:
        assert c("CONFIG", "SET", "tls-protocols", "TLSv1.3") == b"OK"
        assert refused(Tls(h.port, ca, alice, version=ssl.TLSVersion.TLSv1_2)) is None
        wait_until(lambda: len(refusals(h)) == len(wrong) + 1, 5, "a line about TLS 1.2")
        assert refusals(h)[-1] == "the other end speaks no TLS version that is accepted here"
        assert c("CONFIG", "SET", "tls-protocols", "", "tls-auth-clients", "optional") == b"OK"
        assert refused(Tls(h.port, ca)) == b"PONG"
        assert refused(Tls(h.port, ca, alice, version=ssl.TLSVersion.TLSv1_2)) == b"PONG"
        assert refused(wrong[1][0]) is None
        assert c("CONFIG", "SET", "tls-auth-clients", "no") == b"OK"
        assert refused(wrong[1][0]) == b"PONG", "nobody looks at it"
        assert c.ask("CONFIG", "SET", "tls-ciphers", "nonsense").text.startswith("ERR CONFIG SET failed (possibly related to argument 'tls-ciphers')")
        assert c("CONFIG", "GET", "tls-ciphers") == [b"tls-ciphers", b""]


def test_revoked(rig, ca, server, alice):
    """A client's certificate is revoked while it is connected: it stays, and does not come in again. An unusable list changes nothing."""
    believed = ca.dir / "believed.crt"
    believed.write_bytes(ca.crt.read_bytes())
    h = holdfast(rig, ca, server, tls_ca_cert_file=believed)
    bob = Tls(h.port, ca, ca.issue("bob-the-gone", usage="clientAuth"))

    def hang_up(line):
        seen = h.text().count(line)
        h.process.send_signal(signal.SIGHUP)
        wait_until(lambda: h.text().count(line) > seen, 10, lambda: f"'{line}' in the log: {h.text()[-1000:]}")

    listed = ca.revoke(Certificate(ca.dir / "bob-the-gone.crt", None))
    with Client(bob) as c:
        believed.write_text(listed[:-40])
        hang_up("The client ports: TLS stays as it was: " + str(believed))
        assert refused(bob) == b"PONG"
        believed.write_text(listed)
        hang_up("The client ports: certificates read again")
        assert refused(bob) is None
        wait_until(lambda: refusals(h) == ["the other end's certificate has been revoked"], 5, lambda: f"it is told: {refusals(h)}")
        assert c("PING") == b"PONG" and refused(Tls(h.port, ca, alice)) == b"PONG"


def seen_by(node, member):
    return next(m["state"] for m in node.status()["members"] if m["name"] == member.name)


def test_revoked_member(rig):
    """Its links are cut at once, the others go on and say why; with a new certificate it is a member again."""
    g = rig.group()
    gone, *kept = [*g.followers(), g.leader()]
    crt, key, believed = g.certificate(gone.name)
    old = Certificate(crt, key).copy("old")
    with g.leader().client() as c:
        assert c("SET", "before", "1") == b"OK"
        done = subprocess.run(["bash", str(CERTS), "--revoke", str(believed.parent), str(crt)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done
        believed.write_text(believed.read_text() + believed.with_name("ca.crl").read_text())
        for m in kept:
            m.process.send_signal(signal.SIGHUP)
        for m in kept:
            wait_until(lambda m=m: re.search(r"certificate has been revoked|refused TLS: certificate revoked", m.text()), 10 * PATIENCE,
                       lambda m=m: f"{m.name} refuses it: {m.text()[-1000:]}")
            wait_until(lambda m=m: seen_by(m, gone) != "online", 10 * PATIENCE, lambda m=m: f"it is cut off from {m.name}")
        assert until(c, "SET", "meanwhile", "2") == b"OK"
        crt.unlink()
        key.unlink()
        g.certified.discard(gone.name)
        authority = believed.read_text()
        believed.write_text(authority.split("-----BEGIN X509 CRL")[0])
        g.certify(gone.name)
        believed.write_text(authority)
        assert old.serial != Certificate(crt, key).serial
        gone.process.send_signal(signal.SIGHUP)
        for m in kept:
            wait_until(lambda m=m: seen_by(m, gone) == "online", 20 * PATIENCE, lambda m=m: f"it is back at {m.name}")
        assert until(c, "SET", "after", "3") == b"OK"
    g.wait_equal()


def test_strangers_do_not_get_in_the_way(rig, ca, server, alice):
    """Connections that say nothing, more than handshakes may be under way: a client gets in all the same, and they are gone after five
    seconds. Many that talk nonsense: the log says it ten times, and then how many there were."""
    h = holdfast(rig, ca, server)
    with contextlib.ExitStack() as stack, Client(Tls(h.port, ca, alice)) as c:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", h.port))) for _ in range(ATTEMPTS_AT_ONCE)]
        began = time.monotonic()
        assert refused(Tls(h.port, ca, alice)) == b"PONG"
        assert time.monotonic() - began < 3 * PATIENCE, "whoever is slow makes room after a second"
        assert c("PING") == b"PONG"
        wait_until(lambda: h.status()["sessions"] == 1, 5, "whoever is silent is nobody's session")
        for s in silent:
            s.settimeout(10 * PATIENCE)
            with contextlib.suppress(ConnectionError):
                assert s.recv(100) == b"", "it is closed without a word"
        wait_until(lambda: failed(h) == len(silent), 5, lambda: f"all are counted: {failed(h)}")
        for _ in range(100):
            with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", h.port)) as s:
                s.sendall(b"GET / HTTP/1.1\r\n\r\n")
                s.recv(100)
        assert c("PING") == b"PONG"
        assert len(refusals(h)) <= 10 * (2 + (time.monotonic() - began) // 10), "ten lines in ten seconds"
        wait_until(lambda: sum(map(int, re.findall(r"client connections: (\d+) more", h.text()))) + len(refusals(h)) == len(silent) + 100, 15,
                   "nobody is left out of the sum", every=0.1)


class Steady(threading.Thread):
    """One connection that writes and reads until it is told to stop; what went wrong is kept. patient: a refusal is tried again, on the
    same connection."""

    def __init__(self, address, name, patient=False):
        super().__init__(daemon=True)
        self.client, self.key, self.count, self.error = Client(address), f"steady:{name}", 0, None
        self.ending, self.patient = threading.Event(), patient

    def ask(self, *command):
        return until(self.client, *command) if self.patient else self.client(*command)

    def run(self):
        try:
            while not self.ending.is_set():
                value = f"{self.count:08d}" * 200
                assert self.ask("SET", self.key, value) == b"OK"
                assert self.ask("GET", self.key) == value.encode()
                self.count += 1
        except (Exception, AssertionError) as e:  # noqa: BLE001
            self.error = e

    def end(self):
        self.ending.set()
        self.join(30 * PATIENCE)
        self.client.close()
        assert self.error is None and self.count > 0, (self.key, self.count, self.error)


def test_certificates_change_under_load(rig, ca, other, server, alice):
    """New ones are shown to new connections, bad ones change nothing and the log says why; nobody is dropped."""
    shown = server.copy("shown")
    h = holdfast(rig, ca, shown)
    address = Tls(h.port, ca, alice)
    steady = [Steady(address, i) for i in range(4)]
    for s in steady:
        s.start()

    def hang_up(line):
        seen = h.text().count(line)
        h.process.send_signal(signal.SIGHUP)
        wait_until(lambda: h.text().count(line) > seen, 10, lambda: f"'{line}' in the log: {h.text()[-1000:]}")

    fresh = ca.issue("server-2")
    bad = Certificate(shown.crt, shown.key)
    assert address.serial() == server.serial
    bad.crt.write_bytes(fresh.crt.read_bytes())  # the key is still the other one's
    hang_up("The client ports: TLS stays as it was: " + f"{shown.key}: key values mismatch")
    bad.crt.write_bytes(fresh.crt.read_bytes()[:200])
    bad.key.write_bytes(fresh.key.read_bytes())
    hang_up(f"The client ports: TLS stays as it was: {shown.crt}: ")
    ca.issue("server-old", days=(-2, -1)).write_to(shown)
    hang_up(f"The client ports: TLS stays as it was: {shown.crt}: it has expired")
    assert address.serial() == server.serial
    fresh.write_to(shown)
    hang_up("The client ports: certificates read again")
    assert address.serial() == fresh.serial
    third = ca.issue("server-3")
    third.write_to(shown)
    with Client(address) as c:  # as in Valkey: the same name again
        error = c.ask("CONFIG", "SET", "tls-cert-file", "/nowhere.crt")
        assert isinstance(error, RespError) and "/nowhere.crt: No such file or directory" in error.text
        assert c("CONFIG", "GET", "tls-cert-file")[1] == str(shown.crt).encode() and address.serial() == fresh.serial
        assert c("CONFIG", "SET", "tls-cert-file", str(shown.crt)) == b"OK"
        assert address.serial() == third.serial
        assert c("CONFIG", "SET", "tls-ca-cert-file", str(other.crt)) == b"OK"  # of the clients, from now on
        assert refused(address) is None and c("PING") == b"PONG"
        assert refused(Tls(h.port, ca, other.issue("bob"))) == b"PONG"
    for s in steady:
        s.end()
    assert h.terminate() == 0


def test_encrypted_key(rig, ca, alice):
    cert = ca.issue("secret", passphrase="open sesame")
    h = holdfast(rig, ca, cert, tls_key_file_pass="open sesame")
    assert refused(Tls(h.port, ca, alice)) == b"PONG"
    with Client(Tls(h.port, ca, alice)) as c:
        assert str(cert.key) in c.ask("CONFIG", "SET", "tls-key-file-pass", "wrong").text
        assert b"open sesame" not in b"".join(c("CONFIG", "GET", "*"))
    h.terminate()
    h.settings["tls-key-file-pass"] = ""
    h.launch()
    wait_until(lambda: not h.alive(), 10, "without the passphrase it does not start, and asks nobody for it")
    assert f"TLS: {cert.key}: " in h.text()
    h.end_expected = True


@pytest.mark.parametrize("replication", ["yes", "no"])
def test_valkey_with_tls(rig, ca, server, alice, replication):
    """Every connection to it; a certificate of ours that it asks for; a rebuild, which Valkey dials by TLS or not."""
    v = rig.valkey()
    with_valkey_tls(v, ca, server, tls_replication=replication)
    h = rig.holdfast(v, settings=to_valkey(ca, ca.issue("proxy"), valkey_tls_server_name="localhost" if replication == "yes" else ""))
    with h.client() as c:
        assert c("SET", "k", "v") == b"OK"
        assert c("MULTI") == b"OK" and c("INCR", "n") == b"QUEUED" and c("EXEC") == [1]
        assert c("WATCH", "k") == b"OK" and c("BLPOP", "list", "0.01") is None
    v.restart_empty()
    wait_until(lambda: h.status()["rebuilds"] == 1, 20, "it is rebuilt")
    h.wait_ready()
    with h.client() as c, v.client() as d:
        assert c("GET", "k") == b"v" and c("INCR", "n") == 2
        assert d("GET", "n") == b"2"
    assert ("Valkey has dialled without TLS" in h.text()) == (replication == "no")
    assert h.terminate() == 0


def test_valkey_that_is_not_believed(rig, ca, other, server, alice):
    """Or that does not believe us: it stays unconnected, and the log says why. SIGHUP mends it."""
    v = rig.valkey()
    with_valkey_tls(v, ca, server)
    proxy = ca.issue("proxy-2")
    file = rig.dir / "tls.conf"
    h = rig.holdfast(v, start=False)
    h.command = (lambda plain: lambda: [plain()[0], str(file), *plain()[1:]])(h.command)

    def settle(settings):
        file.write_text("".join(f"{k} {v}\n" for k, v in settings.items()))

    def hang_up_until(line):
        h.process.send_signal(signal.SIGHUP)
        wait_until(lambda: line in h.text(), 10, lambda: f"'{line}' in the log: {h.text()[-2000:]}")

    settle(to_valkey(other, proxy))
    h.launch()
    wait_until(lambda: "the other end's certificate is not signed by our CA" in h.text(), 10, "another CA")
    settle(to_valkey(ca, proxy, valkey_tls_server_name="valkey.example"))
    hang_up_until("the other end's certificate is not for valkey.example")
    settle(to_valkey(ca))
    hang_up_until("the other end refused TLS: ")
    settle(to_valkey(ca, proxy, valkey_tls_server_name="none"))
    hang_up_until("Ready to accept commands")
    h.wait_ready()
    with h.client() as c:
        assert c("SET", "k", "v") == b"OK"


def test_feed_without_a_certificate(rig, ca, server):
    """Valkey dials with TLS, and we have nothing to show: the log says so, and a SIGHUP mends it."""
    v = rig.valkey()
    with_valkey_tls(v, ca, server, tls_auth_clients="no")
    h = rig.holdfast(v, settings=to_valkey(ca))
    v.restart_empty()
    wait_until(lambda: "it speaks TLS, and there is no certificate for that" in h.text(), 20, "the feed's complaint")


REFUSED = ("LOADING", "CLUSTERDOWN", "UNCERTAIN", "TRYAGAIN")


def until(client, *command):
    """The reply; a refusal is tried again on the same connection (the commands here may be done twice)."""
    end = time.monotonic() + 20 * PATIENCE
    while isinstance(reply := client.ask(*command), RespError) and reply.code in REFUSED and time.monotonic() < end:
        time.sleep(0.01)
    assert not isinstance(reply, RespError), reply
    return reply


def test_group_without_anything_plain(rig, ca, server, alice):
    """Clients, relays, members, Valkeys, feeds and readers. Leadership is handed over under clients that stay connected; then a leader dies
    with its Valkey, and comes back."""
    g = rig.group(start=False, relay_timeout="10")
    proxy = ca.issue("proxy-3")
    for m in g:
        with_valkey_tls(m.valkey_process, ca, server)
        m.settings.update({**of_clients(ca, server, m.port), "reader-port": 0, "tls-reader-port": m.reader_port, **to_valkey(ca, proxy)})
        m.endpoint = lambda m=m: Tls(m.port, ca, alice)
        m.reader_endpoint = lambda m=m: Tls(m.reader_port, ca, alice)
    g.start()
    steady = [Steady(m.endpoint(), m.name, patient=True) for m in g]  # one is a session and becomes a relay, one the other way
    for s in steady:
        s.start()
    to = g.followers()[0]
    wait_until(lambda: g.leader_now() is to or (g.transfer(to), False)[1], 20, lambda: f"{to.name} leads: {g.summary()}")
    counts = [s.count for s in steady]
    wait_until(lambda: all(s.count > n + 20 or s.error for s, n in zip(steady, counts)), 20, lambda: f"all go on: {[s.error for s in steady]}")
    for s in steady:
        s.end()
    leader = g.leader()
    near = g.followers()[0]
    large = os.urandom(1 << 20)
    with near.client(timeout=30 * PATIENCE) as c:
        until(c, "SET", "large", large)
        c.raw(b"".join(encode("HSET", "hash", i, i) for i in range(1000)))
        acknowledged = [i for i in range(1000) if not isinstance(c.read(), RespError)]
        g.kill9_zone(leader)
        until(c, "SET", "after", "x")
        assert until(c, "GET", "large") == large
        assert all(until(c, "HMGET", "hash", "none", *acknowledged)[1:]), "nothing that was acknowledged is lost"
    g.restart(leader.name)
    g.wait_serving()
    g.wait_equal()
    with leader.reader() as r:
        assert r("GET", "large") == large
    assert set(g.stop().values()) == {0}
