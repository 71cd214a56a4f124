"""The type to compute in: what this processor, one without 16-bit arithmetic, and a GPU are told."""

import os
import subprocess
import sys

import pytest
import torch

from course_lib.model import fast_dtype, precision

ASK = "from course_lib.model import fast_dtype; print(fast_dtype())"


def test_the_faster_type_wins(monkeypatch):
    for winner in (torch.float32, torch.bfloat16):
        precision._faster_on_cpu.cache_clear()
        monkeypatch.setattr(precision, "_seconds_of", lambda x, weight, winner=winner: 1.0 if x.dtype == winner else 2.0)
        assert fast_dtype() == fast_dtype("cpu") == fast_dtype(torch.device("cpu")) == winner
    precision._faster_on_cpu.cache_clear()


def test_one_slow_round_changes_nothing(monkeypatch):
    rounds = iter([(9.0, 2.0), (1.0, 2.0), (9.0, 2.0)])
    times = iter(time for pair in rounds for time in pair)
    precision._faster_on_cpu.cache_clear()
    monkeypatch.setattr(precision, "_seconds_of", lambda x, weight: next(times))
    assert fast_dtype() == torch.float32
    precision._faster_on_cpu.cache_clear()


def test_it_is_measured_once(monkeypatch):
    first = fast_dtype()
    monkeypatch.setattr(precision, "_seconds_of", lambda x, weight: 1 / 0)
    assert fast_dtype() == first


def test_a_processor_without_16_bit_arithmetic_computes_in_32():
    """Told to use AVX2 alone, this one has none: oneDNN then converts each number."""
    avx2 = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    told = subprocess.run([sys.executable, "-c", ASK], env=avx2, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "torch.float32"


@pytest.mark.parametrize("real", [True, False])
def test_a_gpu_is_asked_for_real_arithmetic(monkeypatch, real):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: real and not including_emulation)
    assert fast_dtype("cuda") == fast_dtype(torch.device("cuda", 0)) == (torch.bfloat16 if real else torch.float32)
