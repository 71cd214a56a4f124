"""The argument checks of `flash_attention` and `paged_attention`, which raise ValueError with what to do."""

import math

import torch
from torch import Tensor

from course_lib.kernels.language import use_triton

WIDEST_HEAD = 256
MOST_SPLITS = 128  # of a sequence in `paged_attention`: all their outputs must fit on the chip, to be merged


def use_attention_kernel(backend: str, d_head: int, *tensors: Tensor) -> bool:
    """Return whether the kernel computes, and not PyTorch: as `use_triton`, and only up to WIDEST_HEAD."""
    kernel = use_triton(backend, *tensors, products=True)
    if kernel and d_head > WIDEST_HEAD and backend == "triton":
        raise ValueError(
            f"a head of {d_head} doesn't fit on the chip (at most {WIDEST_HEAD}): use backend='torch'"
        )
    return kernel and d_head <= WIDEST_HEAD


def check_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, window, blocks, scale) -> None:
    """Check the arguments of `flash_attention`, except those of packed sequences."""
    _check_inputs(q, k, v)
    if causal and q.shape[2] > k.shape[2]:
        raise ValueError(
            f"{q.shape[2]} queries can't be the last of {k.shape[2]} keys: give causal=False, or all keys"
        )
    if window is not None and (not causal or window < 1):
        raise ValueError(f"a window must be causal and at least 1 key wide: causal={causal}, window={window}")
    check_scale(scale)
    if blocks is not None and (len(blocks) != 2 or any(size < 16 or size & (size - 1) for size in blocks)):
        raise ValueError(f"blocks must be two powers of two from 16 on, not {tuple(blocks)}")


def check_scale(scale: float | None) -> None:
    """Check the factor on the scores."""
    if scale is not None and not 0 < scale < math.inf:
        raise ValueError(f"scale must be above 0, or None for 1 / √d_head; not {scale}")


def check_packing(q: Tensor, k: Tensor, starts: Tensor | None, longest: int | None) -> None:
    """Check where packed sequences start; on a GPU only shapes, since reading values means waiting for it."""
    if starts is None and longest is None:
        return
    if starts is None:
        raise ValueError("longest belongs to packed sequences: give their starts, or leave it out")
    if q.shape[0] != 1 or q.shape[2] != k.shape[2] or starts.dim() != 1 or len(starts) < 2:
        raise ValueError(
            "packed sequences are a batch of 1, with as many queries as keys and a list of starts, not "
            f"q {tuple(q.shape)}, k {tuple(k.shape)} and starts {tuple(starts.shape)}"
        )
    if starts.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"starts are positions, int32 or int64, not {starts.dtype}")
    if starts.device.type == "cpu":
        _check_starts(starts, longest, q.shape[2])


def check_paged_attention(
    q: Tensor, key_pages: Tensor, value_pages: Tensor, block_table: Tensor, lengths: Tensor,
    window: int | None, splits: int | None, scale: float | None,
) -> None:  # fmt: skip
    """Check the arguments of `paged_attention`."""
    _check_pages(q, key_pages, value_pages)
    if block_table.dim() != 2 or lengths.shape != q.shape[:1] or len(block_table) != len(q):
        raise ValueError(
            f"block_table {tuple(block_table.shape)} and lengths {tuple(lengths.shape)} must be "
            f"(batch, most pages of a sequence) and (batch,), for a batch of {len(q)}"
        )
    if any(x.dtype not in (torch.int32, torch.int64) for x in (block_table, lengths)):
        raise ValueError(
            f"block_table and lengths must be int32 or int64, not {block_table.dtype} and {lengths.dtype}"
        )
    if window is not None and window < 1:
        raise ValueError(f"a window must be at least 1 token wide, not {window}")
    if splits is not None and not 1 <= splits <= MOST_SPLITS:
        raise ValueError(f"a sequence can be split among 1 to {MOST_SPLITS} programs, not {splits}")
    check_scale(scale)


def _check_inputs(q: Tensor, k: Tensor, v: Tensor) -> None:
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}"
    four = q.dim() == k.dim() == 4
    if not four or k.shape != v.shape or (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3]):
        raise ValueError(
            f"{shapes} must be (batch, heads, query, d_head) and twice (batch, kv_heads, key, d_head)"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v must have one dtype, not {q.dtype}, {k.dtype} and {v.dtype}")
    if not q.shape[3]:
        raise ValueError(f"heads of width 0 have no scores: {shapes}")
    if not q.shape[1] or not k.shape[1] or q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads can't share {k.shape[1]} key-value heads evenly")


def _check_starts(starts: Tensor, longest: int | None, tokens: int) -> None:
    lengths = starts.diff()
    if starts[0] != 0 or starts[-1] != tokens or (lengths < 0).any():
        raise ValueError(f"starts must rise from 0 to {tokens}, the number of tokens; not {starts.tolist()}")
    if longest is not None and longest < lengths.max():
        raise ValueError(f"the longest sequence has {lengths.max()} tokens, not longest={longest}")


def _check_pages(q: Tensor, key_pages: Tensor, value_pages: Tensor) -> None:
    pages = f"key_pages {tuple(key_pages.shape)} and value_pages {tuple(value_pages.shape)}"
    dims = (q.dim(), key_pages.dim()) == (3, 4)
    if not dims or key_pages.shape != value_pages.shape or q.shape[2] != key_pages.shape[3]:
        raise ValueError(
            f"q {tuple(q.shape)}, {pages} must be (batch, heads, d_head) and twice "
            "(pages, kv_heads, page_size, d_head)"
        )
    if not q.dtype == key_pages.dtype == value_pages.dtype:
        raise ValueError(
            f"q and pages must have one dtype, not {q.dtype}, {key_pages.dtype} and {value_pages.dtype}"
        )
    if 0 in (*q.shape[1:], *key_pages.shape[1:]) or q.shape[1] % key_pages.shape[1]:
        raise ValueError(
            f"q {tuple(q.shape)}, {pages}: query heads must share key-value heads evenly, and only batch and "
            "pages may be 0"
        )
    if key_pages.stride(3) != 1 or value_pages.stride(3) != 1:
        raise ValueError(
            "the elements of a key or value must lie side by side in memory: copying all pages would take "
            "too long"
        )
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, key_pages, value_pages)):
        raise ValueError(
            "paged attention has no gradient: call it under torch.no_grad(), or train with flash_attention"
        )
