"""Fixtures of the end-to-end tests: see harness.py. A failing test leaves its directory; a passing one is tidied away."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from harness import Disk, Rig, set_mode  # noqa: E402

TOP = pathlib.Path(__file__).resolve().parents[2]


def pytest_configure(config):
    config.addinivalue_line("markers", "long: minutes long; runs with HF_FULL=1")


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.call_failed = outcome.get_result().failed


@pytest.fixture(scope="session")
def disk_library():
    """tests/faults/disk.c as a library: the Makefile's if it is newer than the source, else built here."""
    source, made = TOP / "tests/faults/disk.c", TOP / "build/faults/libdisk.so"
    if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=made.parent, delete=False) as fresh:
            subprocess.check_call(["cc", "-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared",
                                   "-o", fresh.name, str(source), "-ldl"])
        os.chmod(fresh.name, 0o755)
        os.rename(fresh.name, made)
    Disk.library = made
    return made


@pytest.fixture
def rig(request, disk_library):
    """Valkeys, Holdfasts and relays for one test; all of them ended after it."""
    place = tempfile.mkdtemp(prefix="hf-", dir=os.environ.get("HF_TMP"))
    r = Rig(place)
    yield r
    trouble = r.trouble()
    r.close()
    trouble += [t for t in r.trouble() if t not in trouble]
    if trouble or getattr(request.node, "call_failed", True):
        print(f"kept: {place}")
        for h in r.holdfasts():
            print(f"---- {h.output}\n{h.text()[-6000:]}")
    else:
        shutil.rmtree(place, ignore_errors=True)
    assert not trouble, "\n".join(trouble)


# What most files about one node share. A file that needs it otherwise has a fixture of its own by the same name.

@pytest.fixture(scope="module")
def pair(tmp_path_factory, disk_library, request):
    """(Valkey, Holdfast), for all tests of a file."""
    r = Rig(tmp_path_factory.mktemp(request.module.__name__))
    yield r.pair(durability="sync")
    trouble = r.trouble()
    r.close()
    assert not trouble, "\n".join(trouble)


@pytest.fixture(params=["sync", "async"])
def mode(request, pair):
    set_mode(pair[1], request.param)
    return request.param


@pytest.fixture
def connect(pair):
    """Connections to the Holdfast of `pair`, as a user whose password is pw if one is named."""
    made = []

    def new(user=None, **options):
        made.append(pair[1].client(**options))
        if user:
            assert made[-1]("AUTH", user, "pw") == b"OK"
        return made[-1]
    yield new
    for c in made:
        c.close()
