"""Logits → one token: each knob is compared with transformers', and draws with their probabilities.

Then several continuations at once, and the best of them.
"""

import json
import math
from functools import partial
from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import random_tokens, smollm2, tiny_decoder
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from course_lib.course.lessons.sampling import experiment as curves
from course_lib.evaluate import distinct, find_loop, log_likelihood, repeated
from course_lib.generate import (
    KNOBS,
    best_of,
    complete,
    continuations,
    draw,
    frequency_penalty,
    generate,
    greedy,
    min_p,
    presence_penalty,
    probabilities,
    repetition_penalty,
    sample,
    samplers,
    temperature,
    top_k,
    top_p,
)
from course_lib.model import LanguageModel
from course_lib.text import Tokenizer

calm = settings(derandomize=True, deadline=None, max_examples=60)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def logits_of(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def random_logits(rows=1, size=50, seed=0, scale=3.0):
    return scale * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


@st.composite
def some_logits(draw, ties=True):
    """Of any shape and precision; rounded ones hold many ties."""
    rows, size, seed = draw(st.integers(1, 4)), draw(st.integers(1, 300)), draw(st.integers(0, 10_000))
    logits = random_logits(rows, size, seed, draw(st.sampled_from([0.1, 3.0, 30.0])))
    logits = logits.round() if ties and draw(st.booleans()) else logits
    return logits.to(draw(st.sampled_from(DTYPES)))


def wide(logits):
    """At least 32 bits: in 16, transformers' sums of probabilities are rounded badly."""
    return logits if logits.dtype == torch.float64 else logits.float()


def same(ours, theirs, logits):
    assert ours.shape == logits.shape and ours.dtype == logits.dtype
    torch.testing.assert_close(ours, theirs.to(logits.dtype))


# Each knob beside transformers'


@calm
@given(some_logits(), st.floats(0.05, 20))
def test_temperature_is_transformers(logits, t):
    same(temperature(logits, t), TemperatureLogitsWarper(t)(None, logits), logits)


@calm
@given(some_logits(), st.data())
def test_top_k_is_transformers(logits, data):
    k = data.draw(st.integers(1, logits.shape[-1]))
    same(top_k(logits, k), TopKLogitsWarper(k)(None, logits), logits)


@calm
@given(some_logits(), st.floats(0.001, 1))
def test_top_p_is_transformers(logits, p):
    """At ties as many are kept, though not always the same ones: their sort isn't stable."""
    ours, theirs = top_p(logits, p), TopPLogitsWarper(p)(None, wide(logits)).to(logits.dtype)
    same(ours.sort().values, theirs.sort().values, logits)
    if all(len(row.unique()) == len(row) for row in logits):
        same(ours, theirs, logits)


@calm
@given(some_logits(), st.floats(0, 1))
def test_min_p_is_transformers(logits, p):
    same(min_p(logits, p), MinPLogitsWarper(p)(None, wide(logits)), logits)


@calm
@given(some_logits(), st.floats(0.5, 3), st.integers(0, 9), st.integers(0, 99))
def test_repetition_penalty_is_transformers(logits, penalty, time, seed):
    rows, size = logits.shape
    tokens = torch.randint(size, (rows, time), generator=torch.Generator().manual_seed(seed))
    same(
        repetition_penalty(logits, tokens, penalty),
        RepetitionPenaltyLogitsProcessor(penalty)(tokens, logits),
        logits,
    )


def test_all_knobs_in_sample_are_transformers_in_their_order(reachable):
    logits = random_logits(rows=200)
    theirs = MinPLogitsWarper(0.05)(
        None, TopPLogitsWarper(0.8)(None, TopKLogitsWarper(6)(None, logits / 1.5))
    )
    assert reachable(logits, temperature=1.5, top_k=6, top_p=0.8, min_p=0.05).equal(theirs.isfinite().sum(-1))


# Each knob by hand, and what it promises


def test_ties_are_kept_or_split_as_the_header_says():
    logits = logits_of([2.0, 1.0, 1.0, 1.0, 0.0])
    assert top_k(logits, 2).isfinite().tolist() == [[True, True, True, True, False]]
    assert min_p(logits, math.exp(-1) - 1e-6).isfinite().tolist() == [[True, True, True, True, False]]
    assert top_p(torch.zeros(1, 4), 0.5).isfinite().tolist() == [[False, False, True, True]]


@calm
@given(some_logits(ties=False), st.floats(0.01, 0.99))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits, p):
    """What is kept reaches p; without its least likely token it doesn't."""
    chances = logits.double().softmax(-1)
    kept = top_p(logits, p).isfinite()
    inside = chances.masked_fill(~kept, 0).sum(-1)
    least = chances.masked_fill(~kept, 2).amin(-1)
    several = kept.sum(-1) > 1
    assert (inside >= p - 1e-5).all() and (inside - least < p + 1e-5)[several].all()
    assert (chances.masked_fill(kept, 0).amax(-1) <= least + 1e-9).all()


def test_the_sets_of_knobs_by_hand():
    logits = logits_of([0.5, 0.25, 0.125, 0.0625, 0.0625]).log()
    assert top_k(logits, 3).isfinite().sum() == 3
    sizes = {p: int(top_p(logits.double(), p).isfinite().sum()) for p in (0.4, 0.49, 0.51, 0.74, 0.76, 1.0)}
    assert sizes == {0.4: 1, 0.49: 1, 0.51: 2, 0.74: 2, 0.76: 3, 1.0: 5}
    assert [int(min_p(logits, p).isfinite().sum()) for p in (0, 0.12, 0.2, 0.3, 1)] == [5, 5, 3, 2, 1]


def test_penalties_by_hand():
    logits, tokens = logits_of([2.0, -2.0, 4.0, 0.5]), torch.tensor([[0, 1, 1, 1]])
    assert repetition_penalty(logits, tokens, 2.0).tolist() == [[1.0, -4.0, 4.0, 0.5]]
    assert presence_penalty(logits, tokens, 0.5).tolist() == [[1.5, -2.5, 4.0, 0.5]]
    assert frequency_penalty(logits, tokens, 0.5).tolist() == [[1.5, -3.5, 4.0, 0.5]]
    nothing = torch.empty(1, 0, dtype=torch.long)
    for penalize in (repetition_penalty, presence_penalty, frequency_penalty):
        assert penalize(logits, nothing, 1.5).equal(logits)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_row_has_penalties_of_its_own(dtype):
    logits, tokens = random_logits(3, 9).to(dtype), torch.tensor([[0, 1], [2, 2], [8, 8]])
    changed = frequency_penalty(logits, tokens, 1.0) != logits
    assert changed.nonzero().tolist() == [[0, 0], [0, 1], [1, 2], [2, 8]]
    assert frequency_penalty(logits, tokens, 1.0).dtype == dtype


def test_adding_a_constant_changes_what_a_repetition_penalty_does_and_not_what_the_others_do():
    logits, tokens = random_logits(), torch.tensor([[3, 4]])
    for penalize, moves in (
        (repetition_penalty, True),
        (presence_penalty, False),
        (frequency_penalty, False),
    ):
        plain, raised = (penalize(scores, tokens, 1.5).softmax(-1) for scores in (logits, logits + 10))
        assert torch.allclose(plain, raised, atol=1e-5) != moves


CHAIN = {
    "temperature": partial(temperature, t=1.7),
    "top_k": partial(top_k, k=9),
    "top_p": partial(top_p, p=0.8),
    "min_p": partial(min_p, p=0.05),
    "repetition": lambda logits: repetition_penalty(logits, torch.tensor([[1, 2]] * len(logits)), 1.3),
    "presence": lambda logits: presence_penalty(logits, torch.tensor([[3, 3]] * len(logits)), 0.7),
    "frequency": lambda logits: frequency_penalty(logits, torch.tensor([[3, 3]] * len(logits)), 0.7),
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_knobs_compose_in_any_order(dtype):
    logits = random_logits(rows=3).to(dtype)
    for order in permutations(CHAIN, 4):
        scores = logits
        for name in order:
            scores = CHAIN[name](scores)
        chosen = draw(scores, torch.Generator().manual_seed(0))
        assert scores.shape == logits.shape and scores.dtype == dtype and not scores.isnan().any()
        assert scores.gather(1, chosen[:, None]).isfinite().all()
        assert scores.gather(1, greedy(scores)[:, None]).isfinite().all()


def test_the_order_of_temperature_and_top_p_matters():
    logits = logits_of([0.6, 0.2, 0.1, 0.1]).log()
    assert top_p(temperature(logits, 3.0), 0.7).isfinite().sum() == 3
    assert temperature(top_p(logits, 0.7), 3.0).isfinite().sum() == 2


SAMPLING = partial(sample, temperature=1.0, top_k=5, top_p=0.5)


@pytest.mark.parametrize("turn", [*CHAIN.values(), draw, greedy, SAMPLING, probabilities])
def test_no_knob_changes_its_input(turn):
    logits = random_logits(rows=2)
    before = logits.clone()
    turn(logits)
    assert logits.equal(before)


@pytest.mark.parametrize(
    "bad, what", [(math.nan, "NaN"), (math.inf, "∞"), ("nothing", "a row of nothing but −∞")]
)
@pytest.mark.parametrize("turn", [*CHAIN.values(), draw, greedy, sample, SAMPLING, probabilities])
def test_every_knob_refuses_logits_gone_wrong(turn, bad, what):
    logits = random_logits(rows=3)
    if bad == "nothing":
        logits[1] = -math.inf
    else:
        logits[1, 7] = bad
    with pytest.raises(ValueError, match=f"the logits hold .*{what}.*went wrong"):
        turn(logits)


@pytest.mark.parametrize(
    "broken", [torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, 0), torch.tensor(1.0)]
)
def test_what_is_no_logits_is_refused(broken):
    with pytest.raises(ValueError, match="logits are floating-point numbers"):
        greedy(broken)


IMPOSSIBLE = [
    *[
        (temperature, t, "temperature must be above 0.*decode greedily")
        for t in (0, -1.0, math.nan, math.inf, "1", True)
    ],
    (probabilities, 0, "temperature must be above 0, not 0.*greedily"),
    (temperature, 1e-45, "no longer fit torch.float32; decode greedily"),
    *[
        (top_k, k, "top_k must be a whole number between 1 and the vocabulary's 50")
        for k in (0, -1, 51, 2.0, True, "3")
    ],
    *[(top_p, p, "top_p must lie above 0 and at most at 1") for p in (0, -0.1, 1.01, math.nan, True, "0.5")],
    *[(min_p, p, "min_p must lie between 0 and 1") for p in (-0.1, 1.01, math.nan, True)],
]


@pytest.mark.parametrize("turn, value, message", IMPOSSIBLE)
def test_a_knob_refuses_impossible_settings(turn, value, message):
    with pytest.raises(ValueError, match=message):
        turn(random_logits(), value)


@pytest.mark.parametrize("penalize", [repetition_penalty, presence_penalty, frequency_penalty])
def test_penalties_refuse_impossible_settings(penalize):
    logits = random_logits()
    for penalty in (math.nan, math.inf, "1", True):
        with pytest.raises(ValueError, match=f"{penalize.__name__} must be"):
            penalize(logits, torch.tensor([[1]]), penalty)
    for tokens in ([[50]], [[-1]]):
        with pytest.raises(ValueError, match="tokens must lie between 0 and 49"):
            penalize(logits, torch.tensor(tokens), 1.1)
    with pytest.raises(ValueError, match="must have the same rows"):
        penalize(logits, torch.tensor([1, 2]), 1.1)


@pytest.mark.parametrize("penalty", [0, -1.0])
def test_a_repetition_penalty_is_above_0(penalty):
    with pytest.raises(ValueError, match="repetition_penalty must be above 0"):
        repetition_penalty(random_logits(), torch.tensor([[1]]), penalty)


@pytest.mark.parametrize("penalize", [presence_penalty, frequency_penalty, repetition_penalty])
@pytest.mark.parametrize("dtype, penalty", [(torch.float32, 1e300), (torch.float16, 1e5)])
def test_a_penalty_that_leaves_no_numbers_is_refused(penalize, dtype, penalty):
    """In 32 bits 1e300 · 0 is NaN for tokens that never occur; in 16 bits, 1e5 is −∞ for those that do."""
    logits = -random_logits().to(dtype).abs() - 1
    with pytest.raises(ValueError, match="no longer fit"):
        penalize(logits, torch.arange(50).expand(len(logits), -1), penalty)


@pytest.mark.parametrize("tokens", [[[1.5]], [[True]]])
def test_tokens_are_whole_numbers(tokens):
    with pytest.raises(ValueError, match="be whole numbers"):
        presence_penalty(random_logits(1), torch.tensor(tokens), 1.0)
    assert presence_penalty(random_logits(1), torch.tensor([[]]), 1.0).equal(random_logits(1))


def test_distances_from_the_likeliest_are_not_rounded_to_16_bits():
    logits = (random_logits() * 4).bfloat16()
    torch.testing.assert_close(probabilities(logits, 3.0), (logits.float() / 3).softmax(-1))


def test_numbers_of_numpy_are_numbers():
    logits = random_logits()
    assert top_k(logits, np.int64(3)).equal(top_k(logits, 3))
    assert top_p(logits, np.float64(0.5)).equal(top_p(logits, 0.5))


# Draws follow the probabilities


def chi_square(logits, adjusted, times=20_000, seed=0):
    """Pearson's statistic of seeded draws against exact probabilities, and the degrees of freedom."""
    tokens = draw(adjusted.expand(times, -1), torch.Generator().manual_seed(seed))
    counts = torch.bincount(tokens, minlength=logits.shape[-1]).double()
    expected = times * adjusted[0].double().softmax(-1)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    return ((counts - expected).square() / expected)[possible].sum().item(), int(possible.sum()) - 1


# Above these in one of a thousand runs: chi-square's 99.9% points for so many degrees of freedom.
LIMITS = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 5: 20.52, 6: 22.46, 7: 24.32}
COUNTED = {
    "temperature": partial(temperature, t=1.5),
    "top_k": partial(top_k, k=5),
    "top_p": partial(top_p, p=0.8),
    "min_p": partial(min_p, p=0.2),
    "repetition": CHAIN["repetition"],
    "presence": CHAIN["presence"],
    "frequency": CHAIN["frequency"],
}


@pytest.mark.parametrize("names", [(), *combinations(COUNTED, 1), *combinations(COUNTED, 2)], ids=" ".join)
def test_draws_follow_the_exact_distribution(names):
    logits = adjusted = logits_of([2.0, 1.0, 0.5, 0.0, -0.3, 0.7, -1.0, -0.5])
    for name in names:
        adjusted = COUNTED[name](adjusted)
    statistic, freedom = chi_square(logits, adjusted)
    assert freedom >= 1 and statistic < LIMITS[freedom]


def test_the_chi_square_test_would_notice():
    """Draws of another temperature, a shift of one, or a knob left out fail by far."""
    logits = logits_of([2.0, 1.0, 0.5, 0.0, -0.3, 0.7, -1.0, -0.5])
    counts = torch.bincount(draw(logits.expand(20_000, -1), torch.Generator().manual_seed(0)), minlength=8)
    for other in (logits * 1.1, logits.roll(1)):
        expected = 20_000 * other[0].double().softmax(-1)
        assert ((counts - expected).square() / expected).sum() > LIMITS[7]


def test_rows_are_drawn_independently():
    logits = logits_of([0.0, 0.0]).expand(20_000, 2)
    generator = torch.Generator().manual_seed(1)
    first, second = draw(logits, generator), draw(logits, generator)
    table = torch.bincount(2 * first + second, minlength=4) / 20_000
    torch.testing.assert_close(table, torch.full((4,), 0.25), atol=0.015, rtol=0)
    assert (first[1:] == first[:-1]).double().mean().sub(0.5).abs() < 0.015


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_a_large_vocabulary_only_what_is_possible_is_drawn(dtype):
    logits = torch.full((2_000, 49_152), -math.inf, dtype=dtype)
    logits[:, [0, 777, 49_151]] = 0
    counts = torch.bincount(draw(logits[:300], torch.Generator().manual_seed(0)), minlength=49_152)
    assert counts.sum() == 300 and counts[[0, 777, 49_151]].min() > 70


@pytest.mark.parametrize("dart, token", [(0.0, 1), (0.5, 3), (1 - 2**-53, 3)])
def test_a_dart_at_the_very_edge_hits_what_can_come(monkeypatch, dart, token):
    """0 misses the impossible first token, 0.5 hits the second half, and nothing lies beyond the last."""
    monkeypatch.setattr(
        torch, "rand", lambda shape, **options: torch.full(shape, dart, dtype=options["dtype"])
    )
    assert draw(logits_of([-math.inf, 0.0, -math.inf, 0.0, -math.inf])).item() == token


# `sample`, all knobs in one


@pytest.fixture
def reachable(monkeypatch):
    """How many tokens of each row `sample` can draw, however rarely."""

    def count(logits, **options):
        seen = []
        with monkeypatch.context() as patch:
            patch.setattr(samplers, "draw", lambda adjusted, _: seen.append(adjusted))
            sample(logits, **options)
        return (seen[0].softmax(-1) > 0).sum(-1)

    return count


def test_greedy_is_the_largest():
    logits = random_logits(rows=20)
    assert sample(logits).equal(logits.argmax(-1))
    assert sample(logits, top_k=3, top_p=0.5).equal(logits.argmax(-1))
    assert sample(logits.bfloat16()).shape == (20,)


@pytest.mark.parametrize("temperature", [0.01, 0.7, 1.0, 5.0])
def test_temperature_divides_the_logits(temperature):
    logits = random_logits(rows=3)
    expected = torch.distributions.Categorical(logits=logits / temperature).probs
    torch.testing.assert_close(probabilities(logits, temperature), expected)
    torch.testing.assert_close(probabilities(logits.half(), temperature).sum(-1), torch.ones(3))


@pytest.mark.parametrize(
    "tightest",
    [
        *[{"temperature": t} for t in (1e-3, 1e-30, 1e-38, 1e-45, 5e-324)],
        *[{"top_p": p} for p in (1e-6, 1e-46, 5e-324)],
        {"top_k": 1},
        {"min_p": 1.0},
    ],
    ids=str,
)
def test_each_knob_at_its_tightest_is_greedy(tightest):
    logits = random_logits(rows=30, scale=20.0)
    assert sample(logits, **{"temperature": 1.0} | tightest).equal(greedy(logits))


def test_a_nucleus_of_everything_leaves_nothing_out(reachable):
    logits = random_logits(rows=4, size=49152)
    assert reachable(logits, temperature=1.0, top_p=1.0).equal(torch.full((4,), 49152))


def test_sample_is_the_knobs_called_one_after_another():
    logits = random_logits(rows=50)
    one, other = (torch.Generator().manual_seed(4) for _ in range(2))
    by_hand = draw(min_p(top_p(top_k(temperature(logits, 1.3), 20), 0.9), 0.02), one)
    assert sample(logits, 1.3, 20, 0.9, 0.02, other).equal(by_hand)
    assert list(KNOBS) == ["temperature", "top_k", "top_p", "min_p"]


def test_sample_refuses_impossible_settings_also_when_greedy():
    for t, options in product((0.0, 1.0), ({"top_k": 0}, {"top_p": 2}, {"min_p": -1})):
        with pytest.raises(ValueError, match=next(iter(options))):
            sample(random_logits(), t, **options)
    for other in (-0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature must be above 0"):
            sample(random_logits(), other)


# Adjusting while writing


def test_adjusting_sees_all_that_was_written():
    model, seen = tiny_decoder(), []

    def adjust(logits, tokens):
        seen.append((tuple(logits.shape), tokens.tolist()))
        return logits

    plain = list(generate(model, [3, 4], 4))
    for cached in (True, False):
        seen.clear()
        assert list(generate(model, [3, 4], 4, adjust=adjust, cached=cached)) == plain
        assert seen == [((1, 61), [[3, 4, *plain[:i]]]) for i in range(4)]


def test_completing_can_be_adjusted():
    lm, france = smollm2(), smollm2().tokenizer.encode(" Paris")

    def without_paris(logits, tokens):
        return logits.index_fill(1, torch.tensor(france), -math.inf)

    assert "Paris" not in "".join(
        complete(lm, "The capital of France is", 3, chat=False, adjust=without_paris)
    )
    assert "Paris" in "".join(complete(lm, "The capital of France is", 3, chat=False))


# Several continuations


@calm
@given(st.integers(1, 47), st.integers(1, 5), st.integers(0, 60), st.integers(0, 3))
def test_greedy_continuations_are_what_generate_writes(length, n, new, seed):
    model = tiny_decoder(seed=seed)
    prompt = random_tokens(model, time=length, seed=seed)[0].tolist()
    assert continuations(model, prompt, n, new) == [list(generate(model, prompt, new))] * n


def test_each_row_ends_at_its_own_stop_token():
    model = tiny_decoder()

    def rows(stop):
        choose = partial(sample, temperature=3.0, generator=torch.Generator().manual_seed(0))
        return continuations(model, [1, 2, 3], 6, 30, choose, stop=stop)

    free, stopped = rows(()), rows({7, 8, 9, 10, 11})
    assert stopped == [row[: next((i for i, t in enumerate(row) if 7 <= t <= 11), 30)] for row in free]
    assert len({len(row) for row in stopped}) > 2


def test_nothing_is_read_once_all_rows_have_ended():
    model, reads = tiny_decoder(), []
    model.blocks[0].register_forward_hook(lambda *_: reads.append(1))
    first = next(generate(model, [1, 2], 1))
    reads.clear()
    assert continuations(model, [1, 2], 3, 40, stop=[first]) == [[], [], []] and len(reads) == 1


def test_sampled_continuations_follow_the_models_distribution():
    """Two tokens of a small vocabulary, 4,000 times, against all pairs' exact probabilities."""
    model = tiny_decoder(vocab_size=5)
    choose = partial(sample, temperature=1.0, generator=torch.Generator().manual_seed(0))
    pairs = torch.tensor(continuations(model, [1], 4_000, 2, choose))
    counts = torch.bincount(5 * pairs[:, 0] + pairs[:, 1], minlength=25)
    exact = torch.tensor([log_likelihood(model, [1], [a, b]).sum().exp() for a in range(5) for b in range(5)])
    expected = 4_000 * exact.double()
    enough = expected > 5
    assert exact.sum().item() == pytest.approx(1, abs=1e-5)
    assert ((counts - expected).square() / expected)[
        enough
    ].sum() < 52.6  # 25 degrees of freedom at most, 1 in 1,000


def test_there_is_at_least_one_continuation():
    model = tiny_decoder()
    with pytest.raises(ValueError, match="n must be a whole number, from 1 to 1000000, not 0"):
        continuations(model, [1], 0)
    assert continuations(model, [1], 2, 0) == [[], []]


def test_adjusting_keeps_the_shape():
    model, wider = tiny_decoder(), lambda logits, tokens: torch.cat([logits, logits], dim=-1)
    for write in (
        lambda: list(generate(model, [1], 1, adjust=wider)),
        lambda: continuations(model, [1], 2, 1, adjust=wider),
    ):
        with pytest.raises(ValueError, match="adjust was given logits"):
            write()


def test_greedy_takes_the_likeliest_next_token_and_not_the_likeliest_text():
    """Greedy's first of two tokens is the likelier, but in some model another pair is likelier."""

    def best_pair(model):
        pairs = [(a, b) for a in range(8) for b in range(8)]
        return list(best_of(pairs, lambda pair: log_likelihood(model, [1], pair).sum()))

    models = [tiny_decoder(vocab_size=8, seed=seed) for seed in range(12)]
    greedy_pairs = [list(generate(model, [1], 2)) for model in models]
    found = [best_pair(model) for model in models]
    assert any(a != b for a, b in zip(found, greedy_pairs, strict=True))


# The best of several


def test_the_best_is_the_first_that_scores_highest():
    assert best_of(["a", "bbb", "ccc"], len) == "bbb"
    with pytest.raises(ValueError, match="no candidates"):
        best_of([], len)
    assert best_of(np.array([3.0, 4.0]), float) == 4 and best_of(np.array([0.0]), float) == 0
    with pytest.raises(ValueError, match="candidate 1 has no score"):
        best_of([1.0, math.nan], float)


# The long run behind the lesson


@pytest.fixture
def lm():
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], {})
    return LanguageModel("tiny", tiny_decoder(vocab_size=256, context=200), tokenizer, chat=None)


def test_each_knob_is_measured_as_the_measures_say(lm):
    """Plain sampling is every knob at rest; a knob at its tightest is greedy."""
    plain = curves.measure(lm, "a tiger", "temperature", 1.0, rows=4, tokens=12)
    for knob, rest in (("top_k", 256), ("top_p", 1.0), ("min_p", 0.0)):
        assert curves.measure(lm, "a tiger", knob, rest, rows=4, tokens=12) == plain
    tight = [
        curves.measure(lm, "a tiger", *knob, rows=4, tokens=12) for knob in (("top_k", 1), ("min_p", 1.0))
    ]
    written = list(generate(lm.model, list(b"a tiger"), 12))
    for found in tight:
        assert found["entropy"] == 0 and found["different"] == 1
        assert found["log_likelihood"] == pytest.approx(
            log_likelihood(lm.model, list(b"a tiger"), written).mean().item(), abs=1e-3
        )
        assert found["distinct"] == round(distinct([written] * 4), 3) and found["repeated"] == round(
            repeated(written), 3
        )
    assert (
        curves.measure(lm, "a tiger", "repetition_penalty", 1.0, tokens=12)["log_likelihood"]
        == tight[0]["log_likelihood"]
    )
    found = curves.loops(lm, "a tiger", 60)
    assert found["tokens"] == 60 and found["loop"] == find_loop(
        list(generate(lm.model, list(b"a tiger"), 60))
    )


@pytest.mark.parametrize(
    "text, expected",
    [
        ("The tiger swam in the river.", 3),
        ("The TIGER swam!", 2),
        ("tiger river", 2),
        ("The tiger swam. The river was cold.", 2),
        ("Tigers and rivers.", 1),
        ('"The tiger swam in the river."', 3),
        ("He said: ‘Tiger!’ \n", 2),
        ('the words "tiger" and "river"', 2),
        ('"', 0),
        ("tiger " * 16 + "river.", 2),
        ("", 0),
        (".", 0),
    ],
)
def test_points_are_counted(text, expected):
    assert curves.points(text, ("tiger", "river")) == expected


def test_the_stored_log_is_complete():
    log = json.loads(curves.PATH.read_text(encoding="utf-8"))
    assert [entry["prompt"] for entry in log["greedy"]] == list(curves.PROMPTS)
    assert list(log["knobs"]) == list(curves.SETTINGS)
    for knob, values in curves.SETTINGS.items():
        assert list(log["knobs"][knob]) == list(map(str, values))
        assert {len(entries) for entries in log["knobs"][knob].values()} == {curves.IN_CURVES}
    assert list(log["questions"]) == list(map(str, curves.ANSWER_TEMPERATURES))
    assert {len(entry["right"]) for entry in log["questions"].values()} == {len(curves.QUESTIONS)}
    for pair, pool in zip(curves.PAIRS, log["best_of"].values(), strict=True):
        assert [curves.points(entry["text"], pair) for entry in pool] == [entry["points"] for entry in pool]
        assert len(pool) == curves.POOL
