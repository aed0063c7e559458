"""The server for the Python suite: run.py's when HOLDFAST_PORT is set, else one of our own, so that plain pytest works too."""
import os
import pathlib
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from harness import Holdfast  # noqa: E402


class Server:
    def __init__(self, port, pidfile):
        self.port, self.pidfile = port, pidfile
        self.bare = not pidfile  # a Valkey without Holdfast, to try the suite itself


@pytest.fixture(scope="session")
def server():
    if "HOLDFAST_PORT" in os.environ:
        yield Server(int(os.environ["HOLDFAST_PORT"]), os.environ.get("HOLDFAST_VALKEY_PIDFILE", ""))
        return
    directory = tempfile.mkdtemp(prefix="hf-clients-")
    holdfast = Holdfast(directory, start=False)
    try:
        holdfast.start()
        yield Server(holdfast.port, str(holdfast.data_dir / "valkey" / "valkey.pid"))
    finally:
        holdfast.close()
    shutil.rmtree(directory, ignore_errors=True)
