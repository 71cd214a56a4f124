"""Who computes, a kernel or PyTorch; launching; cost and meter; a machine without Triton."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_checks import DEVICE, numbers
from notebook_files import ROOT
from references import failed_examples

import course_lib.kernels
from course_lib.kernels import Cost, Meter, rms_norm, softmax, use_triton
from course_lib.kernels.language import INTERPRETED, launch, power_of_two, tile_count, tl, triton

interpreted = pytest.mark.skipif(not INTERPRETED, reason="of the interpreter")


def test_examples_in_the_docstrings():
    assert not failed_examples(course_lib.kernels)


def test_every_kernel_fits_on_a_page():
    room = Path(course_lib.kernels.__file__).parent
    functions = [node for path in room.glob("*.py") for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    lines = {
        node.name: node.end_lineno - node.lineno + 1
        for node in functions
        if isinstance(node, ast.FunctionDef) and "triton.jit" in map(ast.unparse, node.decorator_list)
    }
    assert len(lines) > 20 and max(lines.values()) <= 80


def test_auto_takes_the_kernel_on_a_gpu_alone():
    x = numbers(3)
    assert (
        use_triton("auto", x) == (DEVICE == "cuda") and not use_triton("torch", x) and use_triton("triton", x)
    )
    assert not use_triton("auto", x.double()) and not use_triton("auto", x, x.to("meta"))


@pytest.mark.parametrize(
    "tensors, message",
    [
        (lambda: (numbers(2).double(),), "32 bits at most; convert"),
        (lambda: (numbers(2), numbers(2).to("meta")), "move them to one device"),
        (lambda: (numbers(2).to(torch.complex64),), "32 bits at most; convert"),
        (lambda: (numbers(2).long(), numbers(2)), "doesn't compute with torch.int64; convert"),
    ],
)
def test_a_kernel_that_cannot_run_says_why_and_what_to_do(tensors, message):
    with pytest.raises(ValueError, match=f"can't run here.*{message}.*backend='torch'"):
        use_triton("triton", *tensors())


def test_some_kernels_are_for_integers():
    assert use_triton("triton", numbers(2).long(), integers=True)


def test_more_programs_than_a_gpu_takes():
    with pytest.raises(ValueError, match="1 × 1 × 65536 programs are too many"):
        launch(None, (1, 1, 65_536))


def test_an_unknown_backend():
    with pytest.raises(ValueError, match="backend must be one of auto, torch, triton; not 'cuda'"):
        use_triton("cuda", numbers(2))


@interpreted
def test_products_of_bfloat16_are_not_for_the_interpreter():
    x = numbers(2, dtype=torch.bfloat16)
    assert use_triton("triton", x) and not use_triton("auto", x, products=True)
    with pytest.raises(ValueError, match="multiplies bfloat16 wrongly"):
        use_triton("triton", x, products=True)


def run(code, **environment):
    command = [sys.executable, "-c", code]
    ran = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment | {"PATH": ""}, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU")
def test_a_compiling_triton_is_of_no_use_on_a_cpu():
    code = """
import torch
from course_lib.kernels import Meter, softmax
for attempt in (lambda: softmax(torch.ones(2), backend="triton"), Meter):
    try:
        attempt()
    except (ValueError, RuntimeError) as error:
        print(error)
print(softmax(torch.zeros(2)).tolist())
"""
    said = run(code, TRITON_INTERPRET="0").splitlines()
    assert (
        len(said) == 3 and all("TRITON_INTERPRET=1" in line for line in said[:2]) and said[2] == "[0.5, 0.5]"
    )


def test_without_triton_pytorch_computes():
    code = """
import sys
sys.modules["triton"] = None  # importing it fails
import torch
from course_lib.kernels import Meter, compile_for, flash_attention, softmax, use_kernels
from course_lib.model import Decoder, ModelConfig
print(softmax(torch.zeros(2)).tolist())
x = torch.ones(1, 2, 3, 4)
print(flash_attention(x, x, x).equal(x))
sizes = {"n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_head": 4, "d_ff": 32, "context": 8}
config = ModelConfig(vocab_size=50, d_model=16, **sizes)
print(use_kernels(Decoder(config))(torch.tensor([[1, 2, 3]])).shape[-1])
compiling = lambda: compile_for(90).__enter__()
for attempt in (lambda: softmax(torch.zeros(2), backend="triton"), Meter, compiling):
    try:
        attempt()
    except (ValueError, RuntimeError) as error:
        print(error)
"""
    said = run(code).splitlines()
    assert said[:3] == ["[0.5, 0.5]", "True", "50"]
    assert len(said) == 6 and all("Triton isn't installed" in line for line in said[3:])


@triton.jit
def count_up(x_ptr, step, SIZE: tl.constexpr):
    place = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(x_ptr + place, tl.load(x_ptr + place) + step)


def test_a_launch_runs_every_program_and_an_empty_grid_none():
    x = numbers(32) * 0
    launch(count_up, (4,), x, 1.0, SIZE=8)
    launch(count_up, (0,), x, 1.0, SIZE=8)
    launch(count_up, (2,), x, 2.0, SIZE=8)
    assert x.tolist() == [3.0] * 16 + [1.0] * 16


def test_tiles_and_powers():
    assert [tile_count(n, 8) for n in (0, 1, 8, 9)] == [0, 1, 1, 2]
    assert [power_of_two(n) for n in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]


def test_cost():
    cost = Cost(bytes=100, flops=400) + Cost(bytes=100, flops=0)
    assert (cost.bytes, cost.flops, cost.intensity) == (200, 400, 2.0)
    assert cost.seconds(bandwidth=100, rate=1e9) == 2.0 and cost.seconds(bandwidth=1e9, rate=100) == 4.0


@interpreted
def test_the_meter_notes_each_step_of_each_program():
    x = numbers(32)
    with Meter() as meter:
        launch(count_up, (4,), x, 1.0, SIZE=8)
    assert [event.program[0] for event in meter.events] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [event.kind for event in meter.events] == ["load", "store"] * 4
    assert [event.address - x.data_ptr() for event in meter.events[::2]] == [0, 32, 64, 96]
    assert (meter.loaded, meter.stored, meter.bytes, meter.flops) == (128, 128, 256, 0)
    launch(count_up, (4,), x, 1.0, SIZE=8)
    assert len(meter.events) == 8  # a closed meter notes nothing


@interpreted
def test_a_meter_is_closed_by_an_error_too():
    with pytest.raises(ZeroDivisionError), Meter() as meter:
        raise ZeroDivisionError
    softmax(numbers(2), backend="triton")
    assert not meter.events


@interpreted
def test_meters_may_be_nested():
    with Meter() as outer:
        with Meter() as inner:
            softmax(numbers(8), backend="triton")
        rms_norm(numbers(8), numbers(8), backend="triton")
    assert outer.bytes > inner.bytes > 0
