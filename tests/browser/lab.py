"""A real JupyterLab in a real Chromium that can reach nothing beyond this machine.

    python -m tests.browser.lab notebooks/*_tokenization.ipynb pictures

opens a copy of the notebook, runs all its cells, and saves what a learner would see, screen by screen.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

import nbformat
from axe_playwright_python.sync_playwright import Axe
from nbformat.sign import NotebookNotary
from playwright.sync_api import Page, Route, sync_playwright

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # All cells in the page, to be counted and pictured.
    "notebook-extension/tracker": {"windowingMode": "none", "scrollPastEnd": False},
}
SCREEN = {"width": 1280, "height": 900}
TALLEST = 16_000  # pixels; Chromium draws no taller page

# In the page: the open notebook, and whether all that was asked of its kernel is done.
NOTEBOOK = "window.jupyterapp?.shell?.currentWidget"
READY = f"() => {NOTEBOOK}?.context?.isReady && {NOTEBOOK}.sessionContext.session?.kernel?.status === 'idle'"
RUN_ALL = """() => {
  window.ran = false;
  jupyterapp.commands.execute('notebook:run-all-cells').finally(() => window.ran = true)
}"""
STILL = f"() => window.ran && ({READY})() && [...document.images].every(image => image.complete)"
DRAWN = f"""() => {{
  const cells = {NOTEBOOK}?.context?.isReady ? {NOTEBOOK}.content.model.toJSON().cells : null;
  const drawn = document.querySelectorAll('.jp-Notebook .jp-Cell:has(.jp-OutputArea-output)').length;
  const stored = cells?.filter(cell => cell.outputs?.length).length;
  return stored === drawn && [...document.images].every(image => image.complete);
}}"""
OUTPUTS = ".jp-Notebook .jp-OutputArea-output"


def find_chromium() -> str | None:
    """Path of the browser: the variable CHROMIUM, or a usual name on PATH; None when there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


@dataclass
class Lab:
    """An open JupyterLab.

    page     Playwright's page
    address  of the server, with its token
    home     where the server keeps what it knows, its notebooks' signatures among it
    refused  what the page asked of the world beyond this machine, and did not get
    errors   what its scripts threw
    """

    page: Page
    address: str
    home: Path
    refused: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, name: str) -> None:
        """Open the notebook `name` of the served folder, and wait for its kernel."""
        self._go(name)
        self.page.wait_for_function(READY, timeout=120_000)

    def view(self, name: str) -> None:
        """Open the notebook `name` as it is stored, and wait until all of it is drawn."""
        self._go(name)
        self.page.wait_for_function(DRAWN, timeout=120_000)

    def _go(self, name: str) -> None:
        base, _, token = self.address.partition("?")
        self.page.goto(f"{base}doc/tree/{quote(name)}?{token}")

    def close(self) -> None:
        """Leave the notebook, and end all kernels."""
        self.page.goto("about:blank")
        base, _, token = self.address.partition("?")
        signed = {"Authorization": token.replace("token=", "token ")}
        for kernel in self.page.request.get(f"{base}api/kernels", headers=signed).json():
            self.page.request.delete(f"{base}api/kernels/{kernel['id']}", headers=signed)

    def trust(self, notebook: Path) -> None:
        """What `jupyter trust` does, for this server."""
        NotebookNotary(data_dir=str(self.home / "data")).sign(nbformat.read(notebook, as_version=4))

    def faults(self) -> list[str]:
        """Return the serious accessibility problems that axe-core finds in the outputs."""
        found = Axe().run(self.page, context=OUTPUTS).response["violations"]
        return [
            f"{fault['id']} ({fault['impact']}): {node['html'][:300]}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]

    def run_all(self, seconds: float = 400) -> None:
        """Run every cell, and wait until the kernel is idle and the pictures are in."""
        self.page.evaluate(RUN_ALL)
        self.page.wait_for_function(STILL, timeout=1000 * seconds)

    def cells(self) -> list[dict]:
        """The notebook as it stands now: its cells with their outputs."""
        return self.page.evaluate(f"() => {NOTEBOOK}.content.model.toJSON().cells")

    def failures(self) -> list[str]:
        """Errors in the outputs, except in cells that are meant to raise, and in widgets."""
        stored = [
            f"cell {i}: {output['ename']}: {output['evalue']}"
            for i, cell in enumerate(self.cells())
            if "raises-exception" not in cell["metadata"].get("tags", [])
            for output in cell.get("outputs", [])
            if output["output_type"] == "error"
        ]
        widgets = self.page.locator(".jupyter-widgets [data-mime-type='application/vnd.jupyter.stderr']")
        return stored + widgets.all_inner_texts()

    def screens(self, folder: Path) -> list[Path]:
        """Save the whole notebook as pictures 01.png, 02.png … of one screen each."""
        folder.mkdir(parents=True, exist_ok=True)
        panel = self.page.locator(".jp-WindowedPanel-outer").first
        height, step = panel.evaluate("e => [e.scrollHeight, e.clientHeight - 40]")
        paths = []
        for i, top in enumerate(range(0, height, step), start=1):
            panel.evaluate("(e, top) => e.scrollTo(0, top)", top)
            self.page.wait_for_timeout(150)
            paths.append(folder / f"{i:02}.png")
            panel.screenshot(path=paths[-1])
        return paths

    def picture(self, path: Path) -> None:
        """Save the whole notebook as one tall picture, cut at what Chromium can draw."""
        path.parent.mkdir(parents=True, exist_ok=True)
        panel = self.page.locator(".jp-WindowedPanel-outer").first
        extra = SCREEN["height"] - panel.evaluate("e => e.clientHeight")
        height = min(panel.evaluate("e => e.scrollHeight") + extra, TALLEST)
        self.page.set_viewport_size({**SCREEN, "height": height})
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=path)
        self.page.set_viewport_size(SCREEN)


@contextmanager
def open_lab(folder: Path, browser: str | None = None) -> Iterator[Lab]:
    """Serve `folder` on this machine alone and yield a `Lab`; both end with the block."""
    browser = browser or find_chromium()
    if not browser:
        raise RuntimeError(f"no Chromium: install one of {', '.join(BROWSERS)}, or set CHROMIUM to its path")
    with _server(folder) as (address, home), sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        lab = Lab(chromium.new_page(viewport=SCREEN), address, home)
        lab.page.route("**/*", lambda route: _only_here(route, lab.refused))
        lab.page.on("websocket", lambda socket: _is_here(socket.url) or lab.refused.append(socket.url))
        lab.page.on("pageerror", lambda error: lab.errors.append(str(error)))
        yield lab
        chromium.close()


def _is_here(url: str) -> bool:
    return urlsplit(url).hostname in LOOPBACK


def _only_here(route: Route, refused: list[str]) -> None:
    if _is_here(route.request.url):
        route.continue_()
    else:
        refused.append(route.request.url)
        route.abort()


@contextmanager
def _server(folder: Path) -> Iterator[tuple[str, Path]]:
    """Run JupyterLab, as a new user would find it, and yield its address and its home."""
    with tempfile.TemporaryDirectory(prefix="jupyter-") as home, open(Path(home, "log"), "w+") as log:
        command = [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            "--expose-app-in-browser",
        ]
        command += ["--ip=127.0.0.1", f"--port={_free_port()}", f"--ServerApp.root_dir={folder}"]
        server = subprocess.Popen(command, env=_environment(Path(home)), stdout=log, stderr=log, cwd=folder)
        try:
            yield (
                _address(Path(home, "runtime", f"jpserver-{server.pid}.json"), server, Path(home, "log")),
                Path(home),
            )
        finally:
            server.terminate()
            server.wait(timeout=20)


def _environment(home: Path) -> dict[str, str]:
    for name, values in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    own = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
        "THIRSTY_TIGER_HOME": "record",
    }
    folders = {variable: str(home / folder) for variable, folder in own.items()}
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **folders, "PYTHONPATH": paths, "OMP_WAIT_POLICY": "passive"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _address(info: Path, server: subprocess.Popen, log: Path, seconds: float = 120) -> str:
    """The address that the server wrote down for itself once it listens."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            found = json.loads(info.read_text())
            with socket.create_connection(("127.0.0.1", found["port"]), timeout=1):
                return f"http://127.0.0.1:{found['port']}/?token={found['token']}"
        except (OSError, ValueError):
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.lab", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--seconds", type=float, default=120, help="how long the notebook may run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as served, open_lab(Path(served)) as lab:
        shutil.copy(arguments.notebook, served)
        lab.open(arguments.notebook.name)
        lab.run_all(arguments.seconds)
        for path in lab.screens(arguments.folder):
            print(path)
        problems = [*lab.failures(), *lab.errors, *(f"refused {url}" for url in lab.refused)]
    print("\n".join(problems) or "no errors")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
