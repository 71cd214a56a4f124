"""What all tests share: calm threads, and a learner's record that is never the real one."""

import os
import shutil
import signal
import tempfile

import pytest

# Before torch is imported, and inherited by the kernels that run the notebooks.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not os.path.exists("/dev/nvidiactl"):  # no GPU: kernels are interpreted, whoever imports Triton first
    os.environ.setdefault("TRITON_INTERPRET", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; tests raise interrupts
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["THIRSTY_TIGER_HOME"] = HOME = tempfile.mkdtemp(prefix="thirsty-tiger-")


def pytest_unconfigure():
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def own_record(tmp_path, monkeypatch):
    """A record of its own for every test. Returns its folder."""
    monkeypatch.setenv("THIRSTY_TIGER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
