"""Models that compute by kernels: the same results, gradients and training, within rounding."""

import copy
from collections import Counter
from importlib import import_module

import pytest
import torch
from kernel_checks import DEVICE, assert_close
from references import random_tokens, tiny_config, tiny_decoder
from torch import nn

from course_lib.kernels import KernelAttention, stack_experts, use_kernels
from course_lib.kernels.experts import stackable
from course_lib.model import Decoder, EncoderDecoder, Experts, Trace
from course_lib.quantize import NF4, Q4_1, Uniform, quantize_linears
from course_lib.train import TrainConfig, Windows, fused_next_token_loss, next_token_loss, train
from course_lib.train.peft import LoRA, attach

FAMILIES = {
    "Llama's": {},
    "GPT-2's": {"positions": "learned", "norm": "layer", "feed_forward": "gelu", "bias": True},
    "Bloom's": {"positions": "alibi", "norm": "layer", "bias": True},
    "interleaved": {"positions": "rope-interleaved", "feed_forward": "geglu"},
    "parallel": {"norm_place": "parallel"},
    "post-norm": {"norm_place": "post", "norm": "layer"},
    "Mixtral's": {"n_experts": 4, "n_active": 2},
    "DeepSeekMoE's": {"n_experts": 4, "n_active": 2, "n_shared": 1, "normalize_shares": False},
    "Switch": {"n_experts": 4, "n_active": 1, "normalize_shares": False, "capacity_factor": 1.25},
}


def two(**changes):
    """The same model twice, the second with kernels."""
    plain = tiny_decoder(torch.float32, **changes).to(DEVICE)
    return plain, use_kernels(copy.deepcopy(plain), backend="triton")


def loss_and_gradients(model, tokens):
    model.requires_grad_(True)
    loss = next_token_loss(model, (tokens[:, :-1], tokens[:, 1:]))
    names, weights = zip(*model.named_parameters(), strict=True)
    return loss, dict(zip(names, torch.autograd.grad(loss, weights), strict=True))


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.slow) if f == "Mixtral's" else f for f in FAMILIES]
)
def test_logits_and_gradients_of_every_family(family):
    plain, fast = two(**FAMILIES[family])
    tokens = random_tokens(plain, batch=2, time=20).to(DEVICE)
    assert_close(fast(tokens), plain(tokens).double(), factor=10)
    (loss, grads), (wanted, wanted_grads) = (
        loss_and_gradients(fast, tokens),
        loss_and_gradients(plain, tokens),
    )
    assert_close(loss, wanted.double(), factor=10)
    assert grads.keys() == wanted_grads.keys()
    for name, grad in grads.items():
        assert_close(grad, wanted_grads[name].double(), factor=20, terms=1.0)


def test_the_kernels_are_really_used(monkeypatch):
    _, fast = two()
    seen = []

    def noting(launch):
        def noted(kernel, *arguments, **dials):
            seen.append(kernel.__name__)
            return launch(kernel, *arguments, **dials)

        return noted

    for name in ("norms", "rope", "flash_attention", "swiglu"):
        module = import_module(f"course_lib.kernels.{name}")
        monkeypatch.setattr(module, "launch", noting(module.launch))
    fast(random_tokens(fast).to(DEVICE))
    layers = fast.config.n_layers
    wanted = {
        "norm_forward": 2 * layers + 1,
        "rope_kernel": 2 * layers,
        "attention_forward": layers,
        "swiglu_forward": layers,
    }
    assert Counter(seen) == wanted


def test_an_encoder_decoder():
    torch.manual_seed(0)
    plain = EncoderDecoder(tiny_config()).eval().to(DEVICE)
    fast = use_kernels(copy.deepcopy(plain), backend="triton")
    source, tokens = torch.randint(60, (2, 17), device=DEVICE), torch.randint(60, (2, 9), device=DEVICE)
    real = torch.ones(2, 17, dtype=torch.bool, device=DEVICE)
    real[1, 11:] = False
    with torch.no_grad():
        assert_close(fast(source, tokens, real), plain(source, tokens, real).double(), factor=10)


def test_with_a_cache_token_by_token():
    plain, fast = two()
    tokens, cache = random_tokens(plain, time=9).to(DEVICE), plain.new_cache(20)
    parts = [fast(part, cache) for part in (tokens[:, :4], tokens[:, 4:5], tokens[:, 5:])]
    assert_close(torch.cat(parts, dim=1), plain(tokens).double(), factor=10)


def test_who_watches_sees_the_same():
    plain, fast = two()
    tokens = random_tokens(plain).to(DEVICE)
    names = plain.activation_names()
    seen, wanted = Trace(keep=names), Trace(keep=names)
    fast(tokens, trace=seen), plain(tokens, trace=wanted)
    for name in names:
        assert_close(seen[name], wanted[name].double(), factor=10)


@pytest.mark.slow
def test_training_goes_the_same_way():
    torch.manual_seed(0)
    plain = Decoder(tiny_config()).to(DEVICE)
    fast = use_kernels(copy.deepcopy(plain), backend="triton")
    batches = Windows(torch.arange(600) % 7 * 5, time=20, batch=2)
    config = TrainConfig(steps=6, learning_rate=1e-2)
    wanted = train(plain, batches, config, progress=False)
    seen = train(fast, batches, config, progress=False)
    again = train(copy.deepcopy(fast).train(), batches, config, progress=False)
    torch.testing.assert_close(torch.tensor(seen.losses), torch.tensor(wanted.losses), rtol=1e-4, atol=0)
    assert seen.losses[-1] < 0.7 * seen.losses[0] and again.losses[0] < seen.losses[0]


def test_the_loss_without_all_logits_is_the_same_loss():
    plain, _ = two()
    plain.requires_grad_(True)
    tokens = random_tokens(plain, batch=3, time=21).to(DEVICE)
    targets = tokens[:, 1:].clone()
    targets[0, :7] = -100
    batch = tokens[:, :-1], targets
    weights = list(plain.parameters())
    wanted = next_token_loss(plain, batch)
    for backend in ("torch", "triton"):
        loss = fused_next_token_loss(plain, batch, backend=backend)
        assert_close(loss, wanted.double())
        for grad, right in zip(
            torch.autograd.grad(loss, weights),
            torch.autograd.grad(wanted, weights, retain_graph=True),
            strict=True,
        ):
            assert_close(grad, right.double(), factor=4)


def test_the_loss_without_all_logits_says_what_it_needs():
    plain, _ = two()
    tokens = random_tokens(plain).to(DEVICE)
    with pytest.raises(ValueError, match="this batch has 3 parts"):
        fused_next_token_loss(plain, (tokens, tokens, tokens))
    plain.head = nn.Sequential(plain.head)
    with pytest.raises(ValueError, match="use next_token_loss"):
        fused_next_token_loss(plain, (tokens, tokens))


def test_lora_on_a_model_with_kernels():
    plain, fast = two()
    tokens = random_tokens(plain, time=15).to(DEVICE)
    for model in (plain, fast):
        torch.manual_seed(0)
        attach(model, LoRA(rank=2))
    first, second = (
        train(
            model,
            lambda step: (tokens[:, :-1], tokens[:, 1:]),
            TrainConfig(steps=4, learning_rate=1e-2),
            progress=False,
        )
        for model in (plain, fast)
    )
    torch.testing.assert_close(torch.tensor(first.losses), torch.tensor(second.losses), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "format",
    [Uniform(bits=8), *(pytest.param(format, marks=pytest.mark.slow) for format in (Q4_1, NF4()))],
)
def test_quantized_models(format):
    plain = quantize_linears(tiny_decoder(torch.float32, d_model=64, d_ff=64, d_head=16), format).to(DEVICE)
    fast = use_kernels(copy.deepcopy(plain), backend="triton")
    for time in (1, 20):
        tokens = random_tokens(plain, time=time).to(DEVICE)
        assert_close(fast(tokens), plain(tokens).double(), factor=10)


def test_back_to_pytorch_to_the_bit():
    plain, fast = two()
    tokens = random_tokens(plain, time=20).to(DEVICE)
    assert use_kernels(fast, backend="torch")(tokens).equal(plain(tokens))
    if DEVICE == "cpu":
        assert use_kernels(fast)(tokens).equal(plain(tokens))


def test_names_weights_and_files_are_as_before():
    plain, fast = two(n_experts=2)
    assert plain.state_dict().keys() == fast.state_dict().keys()
    plain.load_state_dict(fast.state_dict())
    assert isinstance(fast.blocks[0].attention, KernelAttention) and isinstance(
        fast.blocks[0].attention, nn.Module
    )


def test_an_unknown_backend_changes_nothing():
    plain, _ = two()
    with pytest.raises(ValueError, match="backend must be one of auto, torch, triton"):
        use_kernels(plain, backend="cuda")
    assert not any(hasattr(part, "backend") for part in plain.modules())


def with_lora(model):
    weights = attach(model, LoRA(rank=2, targets=("gate", "down"))).weights.values()
    for weight in weights:
        weight.data.normal_(generator=torch.Generator().manual_seed(1))


def quantized(model):
    quantize_linears(model, Uniform(bits=8))


@pytest.mark.parametrize("change", [with_lora, quantized])
def test_experts_with_something_attached_compute_as_before(change):
    plain = tiny_decoder(torch.float32, n_experts=4, n_active=2).to("cpu")
    tokens = random_tokens(plain, time=9)
    before = plain(tokens)
    change(plain)
    wanted = plain(tokens)
    assert not wanted.equal(before)
    mixtures = [part for part in plain.modules() if isinstance(part, Experts)]
    assert mixtures and not any(map(stackable, mixtures))
    with pytest.raises(ValueError, match="nothing quantized or attached"):
        stack_experts(mixtures[0])
    assert use_kernels(plain, "torch")(tokens).equal(wanted)
