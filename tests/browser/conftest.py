"""One JupyterLab and one Chromium for all browser tests."""

import os
import shutil

import pytest

from tests.browser.lab import BROWSERS, ROOT, find_chromium, open_lab


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """A copy of the notebooks, so that running them changes nothing."""
    return shutil.copytree(ROOT / "notebooks", tmp_path_factory.mktemp("served") / "notebooks")


@pytest.fixture(scope="session")
def lab(served):
    """An open JupyterLab. Without Chromium the tests are skipped, except where CI is set: there they fail."""
    if not find_chromium():
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop(f"no Chromium on PATH ({', '.join(BROWSERS)}) nor in the variable CHROMIUM")
    with open_lab(served) as opened:
        yield opened
