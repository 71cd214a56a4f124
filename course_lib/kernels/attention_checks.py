"""The argument checks of `flash_attention` and `paged_attention`, which raise ValueError with what to do.

They raise TypeError for what isn't a tensor.
"""

import math
import reprlib

import torch
from torch import Tensor

from course_lib.kernels.checks import INTEGERS, check_flags, check_floats, values_are_checked
from course_lib.kernels.language import use_triton
from course_lib.model.checks import is_a, is_whole

WIDEST_HEAD = 256
WIDEST_BLOCK = 1_024
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
    check_visible(q.shape[2], k.shape[2], causal, window)
    check_scale(scale)
    if blocks is not None:
        check_blocks(blocks)


def check_visible(queries: int, keys: int, causal: bool, window: int | None) -> None:
    """Check what decides which keys a query sees."""
    check_flags(causal=causal)
    if causal and queries > keys:
        raise ValueError(
            f"{queries} queries can't be the last of {keys} keys: give causal=False, or all keys"
        )
    if window is not None and not (causal and is_whole(window, 1)):
        raise ValueError(
            f"a window must be causal and at least 1 key wide: causal={causal}, window={window!r}"
        )


def check_scale(scale: float | None) -> None:
    """Check the factor on the scores."""
    if scale is not None and not (is_a(scale, float) and scale > 0):
        raise ValueError(f"scale must be above 0, or None for 1 / √d_head; not {scale!r}")


def check_blocks(blocks: tuple[int, int]) -> None:
    """Check the queries and the keys of a tile."""
    powers = isinstance(blocks, (tuple, list)) and len(blocks) == 2
    if not powers or not all(is_whole(size, 16, WIDEST_BLOCK) and size & (size - 1) == 0 for size in blocks):
        raise ValueError(f"blocks must be two powers of two from 16 on, up to {WIDEST_BLOCK}; not {blocks!r}")


def check_packing(q: Tensor, k: Tensor, starts: Tensor | None, longest: int | None, check: bool) -> None:
    """Check where packed sequences start. check: as in `values_are_checked`."""
    check_flags(check=check)
    if starts is None and longest is None:
        return
    if starts is None:
        raise ValueError("longest belongs to packed sequences: give their starts, or leave it out")
    if q.shape[0] != 1 or q.shape[2] != k.shape[2] or starts.dim() != 1 or len(starts) < 2:
        raise ValueError(
            "packed sequences are a batch of 1, with as many queries as keys and a list of starts, not "
            f"q {tuple(q.shape)}, k {tuple(k.shape)} and starts {tuple(starts.shape)}"
        )
    if starts.dtype not in INTEGERS:
        raise ValueError(f"starts are positions, int32 or int64, not {starts.dtype}")
    if longest is not None and not is_whole(longest):
        raise ValueError(f"longest must be the number of tokens of the longest sequence, not {longest!r}")
    if values_are_checked(check, starts):
        _check_starts(starts, longest, q.shape[2])


def check_paged_attention(
    q: Tensor, key_pages: Tensor, value_pages: Tensor, block_table: Tensor, lengths: Tensor,
    window: int | None, splits: int | None, scale: float | None, check: bool,
) -> None:  # fmt: skip
    """Check the arguments of `paged_attention`. check: as in `values_are_checked`."""
    _check_tensors(
        q=q, key_pages=key_pages, value_pages=value_pages, block_table=block_table, lengths=lengths
    )
    _check_pages(q, key_pages, value_pages)
    if block_table.dim() != 2 or lengths.shape != q.shape[:1] or len(block_table) != len(q):
        raise ValueError(
            f"block_table {tuple(block_table.shape)} and lengths {tuple(lengths.shape)} must be "
            f"(batch, most pages of a sequence) and (batch,), for a batch of {len(q)}"
        )
    if block_table.dtype not in INTEGERS or lengths.dtype not in INTEGERS:
        raise ValueError(
            f"block_table and lengths must be int32 or int64, not {block_table.dtype} and {lengths.dtype}"
        )
    check_splits(window, splits)
    check_scale(scale)
    check_flags(check=check)
    if values_are_checked(check, block_table):
        _check_table(block_table, lengths, len(key_pages), key_pages.shape[2], window)


def check_splits(window: int | None, splits: int | None) -> None:
    """Check the tokens to attend to, and among how many programs those of a sequence are split."""
    if window is not None and not is_whole(window, 1):
        raise ValueError(f"a window must be at least 1 token wide, not {window!r}")
    if splits is not None and not is_whole(splits, 1, MOST_SPLITS):
        raise ValueError(f"a sequence can be split among 1 to {MOST_SPLITS} programs, not {splits!r}")


def _check_table(
    block_table: Tensor, lengths: Tensor, pages: int, page_size: int, window: int | None
) -> None:
    """Check the lengths, and those entries of the table that are read: of pages with tokens to attend to."""
    columns, lengths = block_table.shape[1], lengths.long()
    wrong = (lengths < 0) | (lengths > columns * page_size)  # (batch,)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"lengths[{row}] is {lengths[row]}, but a row of block_table holds from 0 to "
            f"{columns * page_size} tokens, in {columns} pages of {page_size}: give it a column for each page"
        )
    last = (lengths + page_size - 1) // page_size  # (batch,), the page after the last that is read
    window = min(columns * page_size, math.inf if window is None else window)
    first = (lengths - window).clamp(min=0) // page_size  # (batch,), the first page that is read
    column = torch.arange(columns, device=lengths.device)  # (columns,)
    read = (column >= first[:, None]) & (column < last[:, None])  # (batch, columns)
    wrong = read & ((block_table < 0) | (block_table >= pages))
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"block_table[{row}, {column}] is {block_table[row, column]}, and there is no such page: "
            f"the {pages} pages are numbered from 0; the sequence's {lengths[row]} tokens need a page there"
        )


def _check_tensors(**tensors: Tensor) -> None:
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor, as torch.tensor(…) makes one, not {reprlib.repr(x)}")


def _check_inputs(q: Tensor, k: Tensor, v: Tensor) -> None:
    _check_tensors(q=q, k=k, v=v)
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}"
    four = q.dim() == k.dim() == 4
    if not four or k.shape != v.shape or (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3]):
        raise ValueError(
            f"{shapes} must be (batch, heads, query, d_head) and twice (batch, kv_heads, key, d_head)"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v must have one dtype, not {q.dtype}, {k.dtype} and {v.dtype}")
    check_floats(q=q)
    if not q.shape[3]:
        raise ValueError(f"heads of width 0 have no scores: {shapes}")
    if not q.shape[1] or not k.shape[1] or q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads can't share {k.shape[1]} key-value heads evenly")


def _check_starts(starts: Tensor, longest: int | None, tokens: int) -> None:
    lengths, most = starts.diff(), int(starts.diff().max())
    if starts[0] != 0 or starts[-1] != tokens or (lengths < 0).any():
        raise ValueError(f"starts must rise from 0 to {tokens}, the number of tokens; not {starts.tolist()}")
    if longest is not None and longest < most:
        raise ValueError(f"the longest sequence has {most} tokens, not longest={longest}")


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
    check_floats(q=q)
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
