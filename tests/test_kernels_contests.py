"""The GPU's contests, run small: each contestant computes, and all compute the same."""

from functools import partial

import pytest
import torch
from kernel_checks import DEVICE, assert_close

from benchmarks import kernels as contests
from benchmarks.measure import Times
from course_lib.kernels import Cost

TINY = contests.Sizes(
    rows=64, width=64, vocab=100, times=(32, 48), heads=4, d_heads=(16, 32), sequences=2, experts=4, tokens=48
)


@pytest.mark.parametrize("part", contests.PARTS, ids=lambda part: part.__name__)
def test_all_contestants_compute_the_same(part):
    torch.manual_seed(0)
    randn = partial(torch.randn, device=DEVICE, dtype=torch.float32)
    made = list(part(TINY, randn, compile=False, triton="triton"))
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


def test_goals_and_ratios_become_lines_of_the_table():
    contest = contests.Contest("copying", {contests.OURS: None, "fused": None}, Cost(100, 1), {"fused": 1.0, "limit": 0.9})
    times = {contests.OURS: Times((2.0,)), "fused": Times((1.0,))}
    fused, limit = contests.rows(contest, times, limit=1.9)
    assert fused.cells[2].startswith("fused: ") and fused.cells[3:] == ("0.50", "**1, missed**")
    assert limit.cells[2:] == ("limit: 1.9 s", "0.95", "0.9")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(capsys):
    assert list(contests.measure(1)) == []
    assert "needs an NVIDIA GPU" in capsys.readouterr().out
