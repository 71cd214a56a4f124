"""Kernels on random shapes. A file of its own, because the other tests run on a GPU without hypothesis."""

from functools import partial

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import DEVICE, assert_same_as_in_64_bits
from test_kernels_flash import by_hand, qkv

from course_lib.kernels.flash_attention import flash_attention
from course_lib.kernels.permute import group_by_expert


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 50), st.integers(0, 40), st.sampled_from([(1, 1), (2, 1), (4, 2)]),
    st.sampled_from([8, 16, 20]), st.booleans(), st.none() | st.integers(1, 60),
    st.sampled_from([(16, 16), (16, 64), (64, 16)]),
)  # fmt: skip
def test_any_shape(queries, more, heads, d_head, causal, window, blocks):
    window = window if causal else None
    inputs = qkv(1, *heads, queries, queries + more, d_head)
    kernel = partial(flash_attention, causal=causal, window=window, blocks=blocks, backend="triton")
    assert_same_as_in_64_bits(kernel, partial(by_hand, causal=causal, window=window), *inputs)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=200), st.sampled_from([torch.int32, torch.int64]))
def test_any_choices(chosen, dtype):
    chosen = torch.tensor(chosen, dtype=dtype, device=DEVICE)
    order, starts = group_by_expert(chosen, 7, "triton")
    assert order.tolist() == chosen.argsort(stable=True).tolist()
    assert starts.diff().tolist() == chosen.bincount(minlength=7).tolist()
