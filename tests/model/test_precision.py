"""The type to compute in: what this processor, one without 16-bit arithmetic, and a GPU are told."""

import os
import subprocess
import sys

import pytest
import torch

from course_lib.model import fast_dtype, precision

ASK = "from course_lib.model import fast_dtype; print(fast_dtype())"


@pytest.fixture(autouse=True)
def forgotten():
    """Each test measures for itself, and leaves nothing behind."""
    precision._faster_on_cpu.cache_clear()
    yield
    precision._faster_on_cpu.cache_clear()


@pytest.mark.parametrize("winner", [torch.float32, torch.bfloat16])
def test_the_faster_type_wins(monkeypatch, winner):
    monkeypatch.setattr(precision, "_seconds", lambda dtype: 1.0 if dtype == winner else 2.0)
    assert fast_dtype() == fast_dtype("cpu") == fast_dtype(torch.device("cpu")) == winner


def test_slow_rounds_change_nothing(monkeypatch):
    """Nineteen of twenty products were interrupted."""
    clock = iter([0, 9] * 19 + [0, 2])
    monkeypatch.setattr(precision, "perf_counter", lambda: next(clock))
    assert precision._seconds(torch.float32) == 2


def test_it_is_measured_once_and_leaves_the_threads_as_they_were(monkeypatch):
    threads = torch.get_num_threads()
    first = fast_dtype()
    monkeypatch.setattr(precision, "_seconds", lambda dtype: 1 / 0)
    assert fast_dtype() == first and torch.get_num_threads() == threads


def test_where_tensors_go_by_default_does_not_matter():
    with torch.device("meta"):
        assert fast_dtype() == fast_dtype("cpu")


def test_autocast_around_it_does_not_matter(monkeypatch):
    kinds, multiply = [], torch.nn.functional.linear
    monkeypatch.setattr(precision.F, "linear", lambda x, weight: kinds.append(multiply(x, weight).dtype))
    with torch.autocast("cpu", torch.bfloat16):
        fast_dtype()
    assert kinds == [torch.float32] * precision.ROUNDS + [torch.bfloat16] * precision.ROUNDS


def test_another_kind_of_device_is_refused():
    with pytest.raises(ValueError, match="not 'mps': choose a type yourself"):
        fast_dtype("mps")


def test_a_processor_without_16_bit_arithmetic_computes_in_32():
    """Told to use AVX2 alone, this one has none: oneDNN then converts each number."""
    avx2 = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    told = subprocess.run([sys.executable, "-c", ASK], env=avx2, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "torch.float32"


@pytest.mark.parametrize("real", [True, False])
def test_a_gpu_is_asked_for_real_arithmetic(monkeypatch, real):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: real and not including_emulation
    )
    assert (
        fast_dtype("cuda")
        == fast_dtype(torch.device("cuda", 0))
        == (torch.bfloat16 if real else torch.float32)
    )
