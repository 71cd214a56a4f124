"""What Triton's interpreter does otherwise than a GPU, mended while a kernel of this package runs.

bfloat16    The interpreter keeps only the upper 16 bits of a 32-bit number, which rounds towards 0. A GPU
            rounds to the nearest number, and to the even one of two that are as near.
warnings    NumPy warns where infinities are subtracted, where 0 divides, or where an exponential is too
            large. In kernels that is usual: rows beyond the end of a tile are −∞, and the results are masked.
            A GPU says nothing.

Not handled: products of bfloat16, and any other operation on its bits but a conversion (see `language`).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Let the interpreter round, and be silent, as a GPU, inside the `with` block."""
    from triton.runtime.interpreter import interpreter_builder as builder

    convert = builder.cast_impl  # every conversion calls it
    builder.cast_impl = lambda source, dtype: _convert(convert, source, dtype)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)  # of the largest of a row of nans
            yield
    finally:
        del builder.cast_impl  # the method of the class is found again


def _convert(convert, source, dtype):
    """Return the converted numbers, by way of float32 where one of the dtypes is bfloat16."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    if source.dtype.scalar == tl.bfloat16:
        source = TensorHandle((source.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
    if dtype.scalar != tl.bfloat16:
        return convert(source, dtype)
    return TensorHandle(round_to_bfloat16(convert(source, tl.float32).data), tl.bfloat16)


def round_to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Return the bits of the nearest bfloat16, of np.uint16, for numbers of np.float32.

    Half of the lowest bit that stays is added, or a little less where that bit is 0; then the lower 16 bits
    are dropped. A carry into the exponent is right: 1.111…₂ becomes 10.0₂, and the largest numbers become ∞.
    """
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32).reshape(x.shape)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint16)
