"""The sweep of `course_lib.kernels`: by PyTorch, as on machines without a GPU, and by the interpreter."""

import dataclasses

import pytest
import torch
from sweep.frame import HUGE, Call, sweep

from course_lib import kernels
from course_lib.kernels import Cost, PreparedWeight, prepare_weight
from course_lib.kernels.language import INTERPRETED
from course_lib.model import Decoder, Experts, ExpertsConfig, ModelConfig
from course_lib.quantize import Uniform


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def positions(*values):
    return torch.tensor(values)


ANY_ROWS = "the last dimension counts, any others may stand before it"
config = ModelConfig(
    vocab_size=11, d_model=8, n_layers=1, n_heads=2, n_kv_heads=1, d_head=4, d_ff=16, context=8,
    experts=ExpertsConfig(3),
)  # fmt: skip
eight_bits = Uniform(bits=8).store(numbers(4, 64))
weight = prepare_weight(eight_bits)


def sizes(*names):
    """Costs are calculated with Python's numbers, of any size."""
    huge = {f"{name} is {HUGE}": "a number of any size can be calculated" for name in names}
    return {**huge, **{f"{name} is 0": "nothing costs nothing" for name in names}}


def cost(function, refused=(), more=(), **arguments):
    """A cost, which takes sizes of 0 and huge ones, but for those that are refused."""
    fine = sizes(*(name for name, value in arguments.items() if type(value) is int)) | dict(more)
    return Call(function, arguments | {"bytes_each": 2}, {k: v for k, v in fine.items() if k not in refused})


TOO_LONG = [f"{name} is {HUGE}" for name in ("queries", "keys")]
UNSHARED = ["heads is 0", "kv_heads is 0", f"kv_heads is {HUGE}"]
ROWS = {
    "x has one more dimension": ANY_ROWS,
    "x has one dimension less": ANY_ROWS,
    "x is shorter": "fewer rows",
}
NO_EPSILON = {"eps is 0.0": "nothing is added where no vector is 0"}
X = {"x": numbers(3, 5)}
PAGED = {
    "q": numbers(2, 2, 16), "key_pages": numbers(4, 1, 8, 16), "value_pages": numbers(4, 1, 8, 16),
    "block_table": positions([2, 0], [1, 3]), "lengths": positions(12, 16), "window": 5, "splits": 2,
    "scale": 0.3, "check": True,
}  # fmt: skip
HEADS = {"q": numbers(1, 2, 6, 16), "k": numbers(1, 1, 6, 16), "v": numbers(1, 1, 6, 16)}
LOSS = {"targets": positions(0, 4, 2), "ignore": -100, "reduction": "mean"}
IGNORE = {
    "ignore is -1": "no target is −1",
    "ignore is 0": "the token 0 doesn't count",
    f"ignore is {HUGE}": "no target is as large",
}

ON_ROWS = {
    "softmax": Call(kernels.softmax, X, {**ROWS, "x is narrower": "shorter rows"}),
    "rms_norm": Call(kernels.rms_norm, {**X, "weight": numbers(5), "eps": 1e-5}, {**ROWS, **NO_EPSILON}),
    "layer_norm": Call(
        kernels.layer_norm, {**X, "weight": numbers(5), "bias": numbers(5), "eps": 1e-5},
        {**ROWS, **NO_EPSILON},
    ),
    "swiglu": Call(kernels.swiglu, {"gate": numbers(3, 5), "up": numbers(3, 5)}),
    "rope": Call(
        kernels.rope,
        {"x": numbers(1, 2, 3, 8), "cos": numbers(3, 4), "sin": numbers(3, 4), "layout": "interleaved"},
        {"x is shorter": "a batch of no sequences"},
    ),
    "cross_entropy": Call(kernels.cross_entropy, {"logits": numbers(3, 5), **LOSS}, IGNORE),
    "token_losses": Call(
        kernels.token_losses, {"logits": numbers(3, 5), "targets": positions(0, 4, 2), "ignore": -100},
        IGNORE,
    ),
    "linear_cross_entropy": Call(
        kernels.linear_cross_entropy,
        {"hidden": numbers(3, 4), "weight": numbers(5, 4), **LOSS, "chunk": 2},
        {**IGNORE, f"chunk is {HUGE}": "all tokens at once"},
    ),
    "flash_attention": Call(
        kernels.flash_attention,
        {**HEADS, "causal": True, "window": 3, "blocks": (16, 16), "scale": 0.3, "return_lse": True},
        {f"window is {HUGE}": "as without a window"},
    ),
    "flash_attention, packed": Call(
        kernels.flash_attention,
        {**HEADS, "starts": positions(0, 2, 6), "longest": 4, "check": True},
        {f"longest is {HUGE}": "it may be larger than the longest is"},
    ),
    "paged_attention": Call(
        kernels.paged_attention, PAGED,
        {
            f"window is {HUGE}": "as without a window",
            "key_pages holds inf": "both queries make the score −∞, which is a weight of 0",
        },
    ),
    "group_by_expert": Call(
        kernels.group_by_expert, {"chosen": positions([0, 2], [1, 0]), "n_experts": 3, "check": True},
        {
            f"chosen {odd}": "the choices are sorted, whatever their shape"
            for odd in ("has one more dimension", "has one dimension less", "is empty", "has no columns",
                        "is shorter", "is narrower")
        },
    ),
    "grouped_matmul": Call(
        kernels.grouped_matmul,
        {
            "x": numbers(3, 4), "weight": numbers(2, 5, 4), "starts": positions(0, 4, 6),
            "order": positions(0, 3, 4, 2, 1, 5), "n_active": 2, "check": True,
        },
    ),
    "mixture": Call(
        kernels.mixture,
        {
            "x": numbers(2, 4), "router_weights": numbers(2, 2), "chosen": positions([0, 2], [1, 0]),
            "gate": numbers(3, 16, 4), "up": numbers(3, 16, 4), "down": numbers(3, 4, 16), "check": True,
        },
    ),
    "quantized_matmul": Call(kernels.quantized_matmul, {"x": numbers(3, 64), "weight": weight}, ROWS),
}  # fmt: skip


def by(backend, call):
    """The same call by one of the backends."""
    return dataclasses.replace(call, arguments={**call.arguments, "backend": backend})


CALLS = {
    **{name: by("auto", call) for name, call in ON_ROWS.items()},
    **({f"{name}, triton": by("triton", call) for name, call in ON_ROWS.items()} if INTERPRETED else {}),
    "plain_flash_attention": Call(
        kernels.plain_flash_attention, {name: numbers(1, 2, 6, 16) for name in "qkv"}
    ),
    "use_triton": Call(
        lambda backend, x, products, integers: kernels.use_triton(
            backend, x, products=products, integers=integers
        ),
        {"backend": "torch", "x": numbers(2), "products": True, "integers": False},
        {
            f"x {odd}": "PyTorch was asked for: x isn't looked at"
            for odd in ("is None", "is an object", "is a word", "is a number",
                        "has one more dimension", "has one dimension less", "is shorter", "is narrower",
                        "holds nan", "holds inf", "holds whole numbers")
        },
    ),
    "prepare_weight": Call(prepare_weight, {"stored": eight_bits}),
    "PreparedWeight": Call(
        PreparedWeight, {"shape": (4, 64), "codes": weight.codes, "scale": weight.scale},
        {
            "codes holds -1": "codes go from −127 to 127",
            "scale holds nan": "products by it are nan",
            "scale holds inf": "products by it are nan",
        },
    ),
    "use_kernels": Call(
        kernels.use_kernels, {"model": Decoder(config), "backend": "torch"},
        {"model is another module": "it has no parts for which there is a kernel"},
    ),
    "kernel_parts": Call(
        kernels.kernel_parts, {"model": Decoder(config), "backend": "torch"},
        {"model is another module": "it has no parts for which there is a kernel"},
    ),
    "stack_experts": Call(kernels.stack_experts, {"experts": Experts(config)}),
    "Cost": Call(Cost, {"bytes": 10, "flops": 20}, sizes("bytes", "flops")),
    "Cost.seconds": Call(
        Cost.seconds, {"self": Cost(10, 20), "bandwidth": 2.0, "rate": 3.0},
        {f"{name} is inf": "the other limit counts" for name in ("bandwidth", "rate")},
    ),
    "softmax_cost": cost(kernels.softmax_cost, rows=3, width=5, backward=True),
    "rms_norm_cost": cost(kernels.rms_norm_cost, rows=3, width=5, backward=True),
    "swiglu_cost": cost(kernels.swiglu_cost, rows=3, width=5, backward=True),
    "rope_cost": cost(kernels.rope_cost, batch=1, heads=2, time=3, d_head=8),
    "cross_entropy_cost": cost(
        kernels.cross_entropy_cost, [f"ignored is {HUGE}", "rows is 0"], rows=3, vocab=5, backward=True,
        ignored=1,
    ),
    "linear_cross_entropy_cost": cost(
        kernels.linear_cross_entropy_cost, [f"ignored is {HUGE}", "tokens is 0", "chunk is 0"], tokens=3,
        d_model=4, vocab=5, chunk=2, ignored=1, hidden_grad=True, weight_grad=True,
    ),
    "naive_attention_cost": cost(
        kernels.naive_attention_cost, batch=1, heads=2, queries=3, keys=6, d_head=16
    ),
    "attention_cost": cost(
        kernels.attention_cost, [*TOO_LONG, "window is 0", "keys is 0"], batch=1, heads=2, queries=3,
        keys=6, d_head=16, causal=True, window=2, blocks=(16, 16),
    ),
    "attention_backward_cost": cost(
        kernels.attention_backward_cost, [*TOO_LONG, *UNSHARED, "window is 0", "keys is 0"], batch=1,
        heads=2, kv_heads=1, queries=3, keys=6, d_head=16, causal=True, window=2, blocks=(16, 16),
    ),
    "paged_attention_cost": cost(
        kernels.paged_attention_cost, [*UNSHARED, f"splits is {HUGE}", "splits is 0", "window is 0"],
        {"lengths holds a huge number": "the window limits what is read"}, lengths=[3, 4], heads=2,
        kv_heads=1, d_head=16, splits=2, window=2,
    ),
    "grouped_matmul_cost": cost(
        kernels.grouped_matmul_cost, (),
        {"counts holds a huge number": "a number of any size can be calculated"}, counts=[3, 4], d_out=5,
        d_in=6, order=True,
    ),
    "group_by_expert_cost": cost(
        kernels.group_by_expert_cost, ["n_experts is 0"], choices=10, n_experts=3
    ),
    "quantized_matmul_cost": Call(
        kernels.quantized_matmul_cost, {"tokens": 3, "weight": weight, "bytes_each": 2}, sizes("tokens")
    ),
}  # fmt: skip

EXEMPT = {
    "BACKENDS": "a list of words",
    "Compiled": "what the compiler reports; `compile_for` makes it",
    "KernelAttention": "`use_kernels` makes it of a model's attention, which the model's sweep calls",
    "Meter": "takes no arguments",
    "compile_for": "works only where Triton compiles; test_kernels_compiled.py runs it there",
}

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
test_every_entry_is_swept, test_sweep = sweep("course_lib.kernels", CALLS, EXEMPT)
