"""Certificates for tests, as good or as bad as wished, by openssl; and addresses that are spoken to with TLS.

    ca = Authority(directory, "ca")
    cert = ca.issue("server", san="IP:127.0.0.1")         cert.crt, cert.key: paths; valid for an hour, for servers and clients
    ca.issue("old", days=(-2, -1)); ca.issue("half", usage="serverAuth"); Authority(directory, "other").issue("foreign")
    with Client(Tls(port, ca, cert)) as c: ...            resp.py's client; cert None: none is shown
"""
import contextlib
import datetime
import pathlib
import socket
import ssl
import subprocess

CERTS = pathlib.Path(__file__).resolve().parents[2] / "config" / "certs.sh"


def _run(*command):
    done = subprocess.run([str(w) for w in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


class Certificate:
    def __init__(self, crt, key):
        self.crt, self.key = crt, key

    def write_to(self, other):
        """Its bytes into another one's files, as somebody does who renews them in place."""
        other.crt.write_bytes(self.crt.read_bytes())
        other.key.write_bytes(self.key.read_bytes())

    def copy(self, name):
        fresh = Certificate(self.crt.with_name(f"{name}.crt"), self.key.with_name(f"{name}.key"))
        self.write_to(fresh)
        return fresh

    @property
    def serial(self):
        return int(_run("openssl", "x509", "-in", self.crt, "-noout", "-serial").split("=")[1], 16)


class Authority:
    def __init__(self, directory, name):
        self.dir, self.name = pathlib.Path(directory), name
        self.dir.mkdir(parents=True, exist_ok=True)
        self.crt, self.key = self.dir / f"{name}.crt", self.dir / f"{name}.key"
        self._key(self.key)
        self._sign(self, name, "basicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign,cRLSign", (-1, 1), "-selfsign")

    @staticmethod
    def _key(path, passphrase=None):
        hidden = ["-aes-256-cbc", "-pass", f"pass:{passphrase}"] if passphrase else []
        _run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", *hidden, "-out", path)

    def _sign(self, cert, subject, extensions, days, *more, signer=None, passphrase=None):
        signer = signer or self
        work = self.dir / f"{cert.crt.stem}.work"
        work.mkdir(exist_ok=True)
        (work / "index").write_text("")
        (work / "config").write_text("\n".join([
            "[ca]", "default_ca = it", "[it]", f"database = {work}/index", f"new_certs_dir = {work}", "policy = any", "default_md = sha256",
            "rand_serial = yes", "unique_subject = no", "[any]", "commonName = supplied", "[extensions]", extensions, ""]))
        secret = ["-passin", f"pass:{passphrase}"] if passphrase else []
        _run("openssl", "req", "-new", "-key", cert.key, *secret, "-subj", f"/CN={subject}", "-out", work / "request")
        begin, end = ((datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=d)).strftime("%Y%m%d%H%M%SZ") for d in days)
        _run("openssl", "ca", "-batch", "-notext", "-config", work / "config", "-extensions", "extensions", "-in", work / "request",
             "-out", cert.crt, "-cert", signer.crt, "-keyfile", signer.key, "-startdate", begin, "-enddate", end, *more)

    def issue(self, name, san="DNS:localhost,IP:127.0.0.1", usage="serverAuth,clientAuth", days=(-1, 1), passphrase=None, own=False):
        """own: signed by itself."""
        cert = Certificate(self.dir / f"{name}.crt", self.dir / f"{name}.key")
        self._key(cert.key, passphrase)
        extensions = (f"basicConstraints = critical,CA:FALSE\nkeyUsage = critical,digitalSignature\nextendedKeyUsage = {usage}\n"
                      f"subjectAltName = {san}")
        self._sign(cert, name, extensions, days, *(["-selfsign"] if own else []), signer=cert if own else None, passphrase=passphrase)
        return cert

    def revoke(self, *certs):
        """By config/certs.sh. The text of the CA file, with a list of all that were ever revoked."""
        _run("bash", CERTS, "--revoke", self.dir, *(c.crt for c in certs))
        return self.crt.read_text() + (self.dir / "ca.crl").read_text()


class Tls:
    """An address for resp.Client: a port, with TLS. The server's certificate is checked, its name too."""

    def __init__(self, port, ca, cert=None, version=None, host="127.0.0.1"):
        self.host, self.port = host, port
        self.context = ssl.create_default_context(cafile=str(ca.crt))
        if cert:
            self.context.load_cert_chain(str(cert.crt), str(cert.key))
        if version:
            self.context.minimum_version = self.context.maximum_version = version

    def connect(self, timeout):
        """ssl.SSLError and ConnectionError are told as what they are: a refusal has a reason. What fails later (TLS 1.3: the
        server looks at our certificate after we are done) is a ConnectionError."""
        s = socket.create_connection((self.host, self.port), timeout)
        try:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _Socket(self.context.wrap_socket(s, server_hostname=self.host))
        except BaseException:
            s.close()
            raise

    def serial(self):
        """Of the certificate that the server shows to a new connection."""
        with contextlib.closing(self.connect(10)) as s:
            return int(s.inner.getpeercert()["serialNumber"], 16)


class _Socket:
    """An ssl.SSLSocket whose errors are those of a socket."""

    def __init__(self, inner):
        self.inner = inner

    def _call(self, name, *args):
        try:
            return getattr(self.inner, name)(*args)
        except TimeoutError:
            raise
        except ssl.SSLError as e:
            raise ConnectionError(str(e)) from e

    def recv(self, n):
        return self._call("recv", n)

    def sendall(self, data):
        return self._call("sendall", data)

    def settimeout(self, seconds):
        self.inner.settimeout(seconds)

    def shutdown(self, how):
        self.inner.shutdown(how)

    def close(self):
        self.inner.close()
