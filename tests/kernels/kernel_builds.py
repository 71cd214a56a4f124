"""Compile every kernel, in sizes of real models, for GPUs that needn't be there; print a line of JSON each.

    TRITON_INTERPRET=0 python tests/kernels/kernel_builds.py 90
    TRITON_INTERPRET=0 python tests/kernels/kernel_builds.py smallest

This is a program of its own because Triton either interprets or compiles. `smallest` compiles the smallest
sizes: Triton makes arguments that are 1 into constants, which is another program.
"""

import json
import sys
from functools import partial

import torch

from course_lib import kernels as K
from course_lib.quantize import NF4, Q4_1, Uniform

ROWS, WIDTH, HEADS, KV_HEADS, TIME, EXPERTS = 4096, 2048, 8, 2, 4096, 8


def both_ways(f, *inputs):
    y = f(*[x.requires_grad_() for x in inputs])
    y.backward(torch.empty_like(y))


def simple(dtype):
    """Kernels without matrix products, which also serve GPUs without tensor cores."""
    new = partial(torch.empty, dtype=dtype)
    cos, sin = new(TIME, 32), new(TIME, 32)
    targets = torch.zeros(ROWS, dtype=torch.int64)
    yield "rms_norm", lambda: both_ways(partial(K.rms_norm, backend="triton"), new(ROWS, WIDTH), new(WIDTH))
    yield (
        "layer_norm",
        lambda: both_ways(partial(K.layer_norm, backend="triton"), new(ROWS, WIDTH), new(WIDTH), new(WIDTH)),
    )
    yield "softmax", lambda: both_ways(partial(K.softmax, backend="triton"), new(ROWS, WIDTH))
    yield "swiglu", lambda: both_ways(partial(K.swiglu, backend="triton"), new(ROWS, WIDTH), new(ROWS, WIDTH))
    for layout in ("half-split", "interleaved"):
        heads = new(1, TIME, HEADS, 64).transpose(1, 2)
        turn = partial(K.rope, cos=cos, sin=sin, layout=layout, backend="triton")
        yield f"rope, {layout}", partial(both_ways, turn, heads)
    loss = partial(K.cross_entropy, targets=targets, backend="triton")
    yield "cross_entropy", partial(both_ways, loss, new(ROWS, 49_152))
    yield (
        "group_by_expert",
        lambda: K.group_by_expert(torch.zeros(ROWS, 2, dtype=torch.int64), EXPERTS, backend="triton"),
    )


def products(dtype):
    """Kernels that multiply matrices."""
    new = partial(torch.empty, dtype=dtype)
    for d_head in (64, 128):
        q, k, v = (new(1, TIME, heads, d_head).transpose(1, 2) for heads in (HEADS, KV_HEADS, KV_HEADS))
        starts = torch.tensor([0, 100, TIME])
        kinds = {
            "": {},
            ", not causal": {"causal": False},
            ", packed, window": {"starts": starts, "window": 512},
        }
        for name, dials in kinds.items():
            yield (
                f"attention {d_head}{name}",
                partial(both_ways, partial(K.flash_attention, backend="triton", **dials), q, k, v),
            )
        plain = [new(1, HEADS, TIME, d_head) for _ in range(3)]
        yield f"plain attention {d_head}", partial(K.plain_flash_attention, *plain)
        pages = new(64, KV_HEADS, 16, d_head)
        table, lengths = torch.zeros(4, 16, dtype=torch.int32), torch.zeros(4, dtype=torch.int32)
        paged = partial(K.paged_attention, splits=4, backend="triton")
        yield f"paged {d_head}", partial(paged, new(4, HEADS, d_head), pages, pages, table, lengths)
    for name, format in {
        "int8": Uniform(bits=8),
        "q4_1": Q4_1,
        "uint4, groups of 128": Uniform(bits=4, group=128),
        "nf4": NF4(),
    }.items():
        weight = K.prepare_weight(format.store(torch.randn(WIDTH, WIDTH)))
        for tokens in (1, 256):
            product = partial(K.quantized_matmul, new(tokens, WIDTH), weight, backend="triton")
            yield f"{name} × {tokens}", product
    x, experts = new(ROWS, WIDTH), new(EXPERTS, WIDTH, WIDTH)
    starts = torch.arange(0, ROWS + 1, ROWS // EXPERTS)
    yield (
        "grouped_matmul",
        partial(both_ways, partial(K.grouped_matmul, starts=starts, backend="triton"), x, experts),
    )


def smallest():
    """One of everything: one row, one token, one head, one expert."""
    new, one = partial(torch.empty, dtype=torch.float16), torch.zeros(1, dtype=torch.int64)
    triton = {"backend": "triton"}
    yield "rms_norm", lambda: both_ways(partial(K.rms_norm, **triton), new(1, 1), new(1))
    yield "layer_norm", lambda: both_ways(partial(K.layer_norm, **triton), new(1, 1), new(1), new(1))
    yield "softmax", lambda: both_ways(partial(K.softmax, **triton), new(1, 1))
    yield "swiglu", lambda: both_ways(partial(K.swiglu, **triton), new(1, 1), new(1, 1))
    for layout in ("half-split", "interleaved"):
        turn = partial(K.rope, cos=new(1, 1), sin=new(1, 1), layout=layout, **triton)
        yield f"rope, {layout}", partial(both_ways, turn, new(1, 1, 1, 2))
    yield "cross_entropy", lambda: both_ways(partial(K.cross_entropy, targets=one, **triton), new(1, 1))
    for dials in ({}, {"causal": False}, {"window": 1}, {"starts": torch.tensor([0, 1])}):
        attend = partial(K.flash_attention, **dials, **triton)
        yield f"attention, {dials}", partial(both_ways, attend, *(new(1, 1, 1, 1) for _ in range(3)))
    yield "plain attention", partial(K.plain_flash_attention, *(new(1, 1, 1, 16) for _ in range(3)))
    for splits in (1, 2):
        paged = partial(K.paged_attention, splits=splits, window=1, **triton)
        yield (
            f"paged, {splits} splits",
            partial(paged, new(1, 1, 1), new(1, 1, 1, 1), new(1, 1, 1, 1), one[None].int(), one.int()),
        )
    yield "group_by_expert", lambda: K.group_by_expert(one, 1, **triton)
    for order in (None, one.int()):
        product = partial(K.grouped_matmul, starts=torch.tensor([0, 1]), order=order, **triton)
        yield "grouped_matmul", partial(both_ways, product, new(1, 1), new(1, 1, 1))
    for name, format in {"int8": Uniform(bits=8), "q4_1": Q4_1, "nf4": NF4()}.items():
        weight = K.prepare_weight(format.store(torch.randn(2 if name == "nf4" else 1, 32)))
        for tokens in (1, 2):
            yield f"{name} × {tokens}", partial(K.quantized_matmul, new(tokens, 32), weight, **triton)


def main(capability: int) -> None:
    dtypes = (torch.float16,) if capability < 80 else (torch.float16, torch.bfloat16, torch.float32)
    for dtype in dtypes:
        cases = [*simple(dtype)] if capability < 80 else [*simple(dtype), *products(dtype)]
        for name, run in cases:
            if dtype == torch.float16 or (name in FEW):
                with K.compile_for(capability) as built:
                    run()
                for kernel in built:
                    print(json.dumps(report(name, dtype, kernel)))


# Those are enough in other dtypes.
FEW = (
    "attention 64",
    "attention 128",
    "plain attention 64",
    "grouped_matmul",
    "cross_entropy",
    "nf4 × 256",
)


def report(case: str, dtype: torch.dtype, kernel: K.Compiled) -> dict:
    """What a test asks of it: instructions are looked for in the assembly."""
    ptx = kernel.ptx
    return {
        "case": case,
        "dtype": str(dtype).removeprefix("torch."),
        "kernel": kernel.name,
        "registers": kernel.registers,
        "spills": kernel.spills,
        "shared": kernel.shared,
        "tensor_cores": "wgmma.mma_async" in ptx or "mma.sync" in ptx,
        "wgmma": "wgmma.mma_async" in ptx,
        "vector_loads": "ld.global.v" in ptx or "cp.async.cg.shared.global" in ptx,
    }


if __name__ == "__main__":
    if sys.argv[1] == "smallest":
        for _, run in smallest():
            with K.compile_for(90) as built:
                run()
            print(len(built))
    else:
        main(int(sys.argv[1]))
