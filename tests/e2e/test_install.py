"""make install, and what a supervisor is told."""
import os
import pathlib
import shutil
import socket
import subprocess

import pytest

from harness import PATIENCE, binary, wait_until

TOP = pathlib.Path(__file__).resolve().parents[2]
PAGES = ["README.md", "proxy/DIFFERENCES.md", *(str(p.relative_to(TOP)) for p in (TOP / "config").glob("*.md"))]


def make(target, root):
    """With a program that is built already: what is tested is what goes where."""
    done = subprocess.run(["make", "-s", "-C", str(TOP), target, f"DESTDIR={root}", "PREFIX=/opt/hf", "-o", "all", f"BIN={binary()}"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120 * PATIENCE)
    assert done.returncode == 0, done.stdout


def test_install_and_uninstall(tmp_path):
    make("install", tmp_path)
    there = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    unit = "etc/systemd/system/holdfast.service"
    assert there == {"opt/hf/bin/holdfast", "opt/hf/share/holdfast/certs.sh", "opt/hf/share/holdfast/holdfast.conf",
                     "etc/holdfast/holdfast.conf", unit, *(f"opt/hf/share/doc/holdfast/{page}" for page in PAGES)}
    version = subprocess.run([str(tmp_path / "opt/hf/bin/holdfast"), "--version"], stdout=subprocess.PIPE, text=True, timeout=60)
    assert version.stdout.startswith("Holdfast ")
    text = (tmp_path / unit).read_text()
    assert "ExecStart=/opt/hf/bin/holdfast /etc/holdfast/holdfast.conf" in text and "Type=notify" in text
    (tmp_path / "etc/holdfast/holdfast.conf").write_text("# mine\n")
    make("install", tmp_path)
    assert (tmp_path / "etc/holdfast/holdfast.conf").read_text() == "# mine\n", "settings are never overwritten"
    make("uninstall", tmp_path)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == {"etc/holdfast/holdfast.conf"}


def test_the_unit_is_one(tmp_path):
    """By systemd's own check, where there is one; and by hand, since a machine in a container has none."""
    keys = {}
    for line in (TOP / "config/holdfast.service").read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            keys.setdefault(key, []).append(value)
    assert keys["Type"] == ["notify"] and keys["NoNewPrivileges"] == ["yes"] and keys["LimitNOFILE"] == ["65536"]
    assert keys["ExecReload"] == ["/bin/kill -HUP $MAINPID"] and keys["User"] == ["holdfast"]
    analyze = shutil.which("systemd-analyze")
    if analyze:
        unit = tmp_path / "holdfast.service"
        text = (TOP / "config/holdfast.service").read_text()
        unit.write_text(text.replace("/usr/local/bin/holdfast", str(binary())).replace("User=holdfast", "User=nobody").replace("Group=holdfast", "Group=nogroup"))
        done = subprocess.run([analyze, "verify", str(unit)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        wrong = [line for line in done.stdout.splitlines() if "holdfast.service" in line and "Unknown" in line]
        assert not wrong, done.stdout


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_a_supervisor_is_told(rig, tmp_path, abstract):
    name = f"@hf-notify-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind("\0" + name[1:] if abstract else name)
        s.settimeout(20 * PATIENCE)
        valkey = rig.valkey()
        os.environ["NOTIFY_SOCKET"] = name
        try:
            h = rig.holdfast(valkey)
        finally:
            del os.environ["NOTIFY_SOCKET"]
        assert b"READY=1" in s.recv(1000).splitlines()
        with h.client() as c:
            assert c("SET", "k", 1) == b"OK"
        h.terminate()
        assert b"STOPPING=1" in s.recv(1000).splitlines()
        wait_until(lambda: not h.alive(), 10, "it has ended")
