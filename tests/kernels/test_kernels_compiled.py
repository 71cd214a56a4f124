"""What the compiler makes of the kernels for GPUs of three generations, none of which need be there."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from functools import cache

import pytest
from notebook_files import ROOT

from course_lib.kernels import compile_for
from course_lib.kernels.language import INTERPRETED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no Triton for other systems")
# Without matrix products; all other kernels must use the tensor cores for 16-bit inputs.
SIMPLE = {
    "softmax_forward", "softmax_backward", "norm_forward", "norm_backward", "swiglu_forward",
    "swiglu_backward", "rope_kernel", "cross_entropy_forward", "cross_entropy_backward",
    "count_choices", "place_choices",
}  # fmt: skip
ONE_TOKEN = {"merge_splits", "int8_one_token", "int4_one_token"}


@cache
def builds(which: int | str, folder: str) -> list[dict]:
    """A line for each kernel of each case, from a Python in which Triton compiles."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": folder, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "kernels" / "kernel_builds.py"), str(which)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("triton"))


@pytest.mark.parametrize("capability", [*(pytest.param(c, marks=pytest.mark.slow) for c in (75, 80)), 90])
def test_nothing_spills_and_memory_is_read_in_vector_loads(capability, folder):
    built = builds(capability, folder)
    assert {line["kernel"] for line in built} >= (SIMPLE if capability < 80 else SIMPLE | ONE_TOKEN)
    spilled = [
        (line["case"], line["dtype"], line["kernel"], line["spills"]) for line in built if line["spills"]
    ]
    assert not spilled
    assert not {(line["case"], line["kernel"]) for line in built if not line["vector_loads"]}


@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_products_of_16_bits_run_on_tensor_cores(capability, folder):
    uses = defaultdict(set)
    for line in builds(capability, folder):
        if line["dtype"] != "float32" and line["kernel"] not in SIMPLE | ONE_TOKEN:
            uses[line["kernel"]].add(line["tensor_cores"])
    assert uses.keys() == {
        "plain_attention_forward", "attention_forward", "grad_queries", "grad_keys_values",
        "attend_to_split", "grouped_product",
        "grouped_weight_gradient", "int8_many_tokens", "int4_many_tokens",
    }  # fmt: skip
    assert all(used == {True} for used in uses.values()), uses


def test_on_an_h100_attention_uses_its_own_instructions(folder):
    wgmma = {line["kernel"] for line in builds(90, folder) if line["wgmma"]}
    # Decoding has too few rows a program for these, which take 64 at least.
    assert wgmma == {
        "plain_attention_forward", "attention_forward", "grad_queries", "grad_keys_values",
        "grouped_product", "grouped_weight_gradient",
        "int8_many_tokens", "int4_many_tokens",
    }  # fmt: skip


def test_the_smallest_sizes_compile_too(folder):
    launches = builds("smallest", folder)
    assert len(launches) >= 20 and min(launches) >= 1


@pytest.mark.parametrize(
    "capability, shared", [pytest.param(80, 163 * 1024, marks=pytest.mark.slow), (90, 227 * 1024)]
)
def test_tiles_fit_in_shared_memory(capability, shared, folder):
    """Limits: NVIDIA's CUDA programming guide, "Technical Specifications per Compute Capability"."""
    assert max(line["shared"] for line in builds(capability, folder)) <= shared


@pytest.mark.skipif(not INTERPRETED, reason="here Triton compiles")
def test_an_interpreting_python_says_what_to_do():
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=0"), compile_for(90):
        pass
