"""`make gpu` with small sizes in the interpreter: it works with torch, triton, numpy and pytest alone."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from time import monotonic

import pytest
import torch
from kernel_checks import DEVICE, assert_close

from benchmarks.gpu import contests, device_tests, sweeps
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.report import summary
from benchmarks.gpu.results import GPU, INTERPRETER, Results, load, write
from benchmarks.gpu.stages import GRACE, STAGES, Stage, run_apart, run_here
from benchmarks.measure import Times
from course_lib.kernels import Cost, flash_attention
from course_lib.kernels.chosen_tiles import SIZES, Tile, chosen, use_tiles

ROOT = Path(__file__).parents[2]
here = pytest.mark.skipif(DEVICE != "cpu", reason="runs in the interpreter")

# Refuses all other requirements of the course, in this process and in those that it starts.
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"gguf", "bertviz", "safetensors", "regex", "jinja2", "tqdm", "matplotlib",
                                  "ipywidgets", "transformers", "tokenizers", "hypothesis", "sacrebleu",
                                  "peft", "IPython"}:
            raise ImportError(f"{name} isn't there")
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Run the whole script, small, with nothing else installed; return its results and its output."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "blocked").mkdir()
    (folder / "blocked" / "sitecustomize.py").write_text(BLOCKED)
    path = os.pathsep.join([str(folder / "blocked"), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "OUT": str(folder / "out"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--small"]
    said = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    return load(folder / "out" / "results.json", small=True), said


@here
def test_every_stage_works_with_nothing_else_installed(ran):
    results, said = ran
    assert list(results.stages) == list(STAGES) and results.timed_by == INTERPRETER
    for name, record in results.stages.items():
        assert record["results"] and not record["failures"], name
        assert f"{name}: " in said
    assert "Failures:\nnone" in said and "times mean nothing" in said and "TFLOP/s" not in said
    assert results.machine["versions"].keys() == {"Python", "torch", "triton", "numpy"}


@here
def test_device_tests_ran_in_every_file(ran):
    for found in ran[0].stages["tests"]["results"]:
        assert found["passed"] and not found["failed"], found
    assert {found["what"] for found in ran[0].stages["tests"]["results"]} == set(device_tests.FILES)


@here
def test_sweeps_keep_every_tile_that_they_tried(ran):
    swept = [
        found
        for name, record in ran[0].stages.items()
        if name.startswith("sweeps")
        for found in record["results"]
    ]
    assert len(swept) >= 8
    for found in swept:
        assert found["now"] in [one["tile"] for one in found["tried"]] and found["best"] in [
            one["tile"] for one in found["tried"]
        ]


@here
def test_there_is_a_contest_for_each_kind_of_kernel(ran):
    told = [
        found["what"]
        for name, record in ran[0].stages.items()
        if name.startswith("contests")
        for found in record["results"]
    ]
    for kind in (
        "RMSNorm",
        "softmax",
        "SwiGLU",
        "RoPE",
        "cross-entropy",
        "last layer",
        "attention",
        "decoding",
        "8 bits",
        "NF4",
        "grouped",
    ):
        assert any(kind in what for what in told), kind


# One failure doesn't stop the others


def test_a_tile_that_fails_or_is_wrong_is_noted_and_the_next_is_tried():
    def run(tile):
        if tile[0] == 2:
            raise RuntimeError("out of resource:\n shared memory")
        return torch.ones(3) if tile[0] == 4 else torch.zeros(3)

    sweep = sweeps.Sweep("x", "x.py, f", ("n",), (1,), run, lambda: torch.ones(3))
    tried = [
        sweeps.attempt(sweep, (size,), torch.ones(3), lambda f: f().sum().item(), 1) for size in (1, 2, 4)
    ]
    assert (
        "the result is wrong" in tried[0]["failure"]
        and tried[1]["failure"] == "RuntimeError: out of resource: shared memory"
    )
    assert tried[2]["seconds"] == 3.0
    assert sweeps.result(sweep, tried)["best"] == (4,) and sweeps.advice(sweeps.result(sweep, tried)) == ""


def test_advice_says_which_constant_to_change():
    tried = [{"tile": (1, 8), "seconds": 2.0}, {"tile": (2, 8), "seconds": 1.0}]
    sweep = sweeps.Sweep(
        "attention", "flash_attention.py, forward_tile", ("BLOCK_Q", "warps"), (1, 8), None, None
    )
    said = sweeps.advice(sweeps.result(sweep, tried))
    assert (
        said == "attention: 2.00 times as fast with BLOCK_Q 2, warps 8 (in flash_attention.py, forward_tile)"
    )


def test_a_stage_that_raises_keeps_what_it_had(monkeypatch):
    def run(plan):
        yield {"what": "first"}
        raise OSError("gone")

    monkeypatch.setitem(STAGES, "broken", Stage(5, run))
    assert run_here("broken", 5) == [{"what": "first"}, {"what": "broken", "failure": "OSError: gone"}]


def test_a_stage_in_a_process_of_its_own_says_why_it_ended():
    found = run_apart("machine", 20, small=True)
    assert found[0]["what"] == "machine" and len(found) == 1
    (found,) = run_apart("no such stage", 20, small=True)
    assert "KeyError" in found["failure"]


@here
def test_tests_that_are_stopped_are_counted_and_those_that_ran_are_kept(monkeypatch):
    """The most shares, stopped at once: the stage must report it before it is itself stopped."""
    monkeypatch.setattr(device_tests, "_start", sleeper)
    monkeypatch.setattr(device_tests, "MOST_SHARES", 8)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    begun = monotonic()
    plan = Plan(False, begun + 2)
    *files, last = device_tests.run(plan)
    assert (
        monotonic() - begun < 2 + GRACE / 2 and "2 tests of a share weren't run: stopped" in last["failure"]
    )
    assert next(one for one in files if one["what"] == "tests/kernels/test_kernels_rows.py")["passed"] == 8


def sleeper(share, shares, path, small):
    """Start a share of three tests, of which one has passed when it is stopped."""
    lines = (
        {"collected": 3},
        {"test": "tests/kernels/test_kernels_rows.py::x", "outcome": "passed", "why": ""},
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], **quiet)


def test_a_contestant_that_cannot_run_is_left_out_and_named():
    def part(sizes, randn, compile, triton):
        yield contests.Contest(
            "c", {contests.OURS: lambda: torch.ones(1), "rival": lambda: 1 / 0}, Cost(1, 1), {}
        )

    found = list(contests.run(part, Plan(True, monotonic() + 5)))
    assert [one["what"] for one in found] == ["limits", "c: rival", "c"] and "ZeroDivisionError" in found[1][
        "failure"
    ]
    assert list(found[2]["seconds"]) == [contests.OURS]


def test_what_there_is_no_time_for_is_named():
    found = list(contests.run(contests.decoding, Plan(True, monotonic() - 1)))
    assert "there was no time left" in found[-1]["failure"]


@pytest.mark.parametrize(
    "part", [contests.layers, contests.losses, contests.attention, contests.decoding, contests.products]
)
def test_all_contestants_compute_the_same(part):
    torch.manual_seed(0)
    randn = partial(torch.randn, device=DEVICE, dtype=torch.float32)
    made = list(part(contests.TINY, randn, False, "triton"))
    assert made
    for contest in made:
        assert len(contest.runs) >= 2 and next(iter(contest.runs)) == contests.OURS
        assert set(contest.goals) <= {*contest.runs, "limit", "FlashAttention-2", "cuDNN", "torch.compile"}
        ours, *rivals = (run().detach() for run in contest.runs.values())
        if "grouped product" in contest.what:  # its rival does as much work, not the same
            assert ours.shape == rivals[0].shape
            continue
        for rival in rivals:
            assert_close(ours, rival.double(), factor=20)


# The file and the table


def measured(ours, fused):
    machine = {"device": "A GPU", "driver": "1", "versions": {"torch": "2"}, "date": "2026-01-01"}
    seconds = {contests.OURS: Times((ours,)), "fused": Times((fused,))}
    found = [
        {"what": "limits", "bytes a second": 1e12, "operations a second": 1e15},
        {"what": "copying", "seconds": seconds, "limit": 1.9, "goals": {"fused": 1.0, "limit": 0.9}},
    ]
    stage = {"results": found, "failures": ["x: y"], "seconds": 1, "budget": 2}
    return Results(GPU, machine, {"contests: layers": stage})


def test_goals_and_ratios_become_lines_of_the_table():
    text = summary(measured(2.0, 1.0))
    assert "contests: layers: x: y" in text and "A GPU: 1,000 GB/s, 1,000 TFLOP/s" in text
    assert (
        "**1, missed**" in text
        and "| 0.95 | 0.9 |" in text
        and "Measured on 2026-01-01: A GPU, driver 1, torch 2." in text
    )


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    write(tmp_path / "new", measured(1.0, 2.0))
    path = tmp_path / "new" / "results.json"
    assert load(path).find("contests: layers", "copying")["goals"] == {"fused": 1.0, "limit": 0.9}
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write(tmp_path / "new", measured(9.0, 2.0))
    assert path.read_bytes() == before


def test_times_that_mean_nothing_are_not_quoted(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `make gpu` on a machine with an NVIDIA GPU"):
        load(tmp_path / "results.json")
    write(tmp_path, Results(INTERPRETER, {}, {}))
    with pytest.raises(ValueError, match="times mean nothing"):
        load(tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text())["stages"] == {}


# Other tiles than a kernel's own


@pytest.mark.parametrize("block_q, block_k, warps, stages", [(16, 16, 4, 2), (32, 16, 8, 1), (16, 64, 4, 3)])
def test_other_tiles_compute_the_same(block_q, block_k, warps, stages):
    tile = Tile({"BLOCK_Q": block_q, "BLOCK_K": block_k}, warps, stages)
    q = torch.randn(1, 2, 50, 32, generator=torch.Generator().manual_seed(0)).to(DEVICE).requires_grad_()
    plain = flash_attention(q, q, q, backend="triton")
    (wanted,) = torch.autograd.grad(plain.sum(), q)
    with use_tiles(attention_forward=tile, grad_queries=tile, grad_keys_values=tile):
        other = flash_attention(q, q, q, backend="triton")
        (grad,) = torch.autograd.grad(other.sum(), q)
    assert_close(other, plain.double())
    assert_close(grad, wanted.double(), terms=1.0)
    own = Tile({"BLOCK_Q": 1, "BLOCK_K": 2}, 4, 3)
    assert chosen("attention_forward", own) is own


@pytest.mark.parametrize(
    "tiles",
    [
        {"wings": Tile({"BLOCK_Q": 16})},
        {"attention_forward": Tile({"BLOCK_Q": 16})},
        {"attention_forward": Tile({"BLOCK_Q": 16, "BLOCK_M": 16})},
    ],
)
def test_a_tile_that_is_not_the_kernels_is_refused(tiles):
    with (
        pytest.raises(ValueError, match="no kernel is called|takes BLOCK_Q, BLOCK_K; not"),
        use_tiles(**tiles),
    ):
        pass
    assert all(chosen(kernel, Tile()) == Tile() for kernel in SIZES)


def test_what_cannot_be_a_tile_is_refused():
    for sizes, warps, stages, message in [
        ({"BLOCK_Q": 24}, 4, 2, "powers of two"),
        ({"BLOCK_Q": 16}, 3, 2, "powers of two"),
        ({"BLOCK_Q": 0}, 4, 2, "whole numbers from 1 on"),
        ({"BLOCK_Q": 16.0}, 4, 2, "whole numbers from 1 on"),
        ({"BLOCK_Q": 16}, 4, 0, "whole numbers from 1 on"),
    ]:
        with pytest.raises(ValueError, match=message):
            Tile(sizes, warps, stages)
