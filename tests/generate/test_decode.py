"""Texts written side by side: rows of different lengths, with samplers and ends of their own, equal to each
alone.
"""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import random_weights, tiny_config, tiny_decoder

from course_lib.generate import (
    Batch,
    Request,
    continuations,
    decode,
    generate,
    generate_plainly,
    pack,
    repetition_penalty,
    sample,
    write,
)
from course_lib.kernels import use_kernels
from course_lib.model import Decoder, EncoderDecoder, Experts, KVCache, Trace
from course_lib.train.peft import LoRA, Prefix, attach

calm = settings(derandomize=True, deadline=None, max_examples=30)
DOUBLE = torch.float64

KINDS = {
    "Llama's": {},
    "interleaved": {"positions": "rope-interleaved"},
    "learned positions": {"positions": "learned"},
    "sinusoidal": {"positions": "sinusoidal"},
    "ALiBi": {"positions": "alibi"},
    "no positions": {"positions": "none"},
    "a sliding window": {"window": 4},
    "a window, every other layer": {"window": 3, "global_every": 2},
    "a window with ALiBi": {"window": 4, "positions": "alibi"},
    "normalized queries and keys": {"qk_norm": True},
    "soft caps": {"cap": 2.0, "logit_cap": 3.0},
    "another scale": {"scale": 0.7},
    "a head with bias": {"head_bias": True, "tie_embeddings": False},
    "experts": {"n_experts": 3},
}
PROMPTS = [[5, 7, 9, 11, 2], [1], [8, 8, 3], [1], [40, 30, 20, 10, 4, 3, 2]]


def alone(model, prompt, n, **dials):
    return list(generate(model, prompt, n, **dials))


def model_of(kind, **changes):
    return random_weights(tiny_decoder(**KINDS[kind] | changes), spread=0.3).requires_grad_(False)


# The proof: what serving and speculation build on


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_of_different_lengths_in_one_batch_are_written_as_each_alone(kind):
    model = model_of(kind)
    together = write(model, [Request(prompt, 9) for prompt in PROMPTS])
    assert together == [alone(model, prompt, 9) for prompt in PROMPTS]
    assert len({tuple(text) for text in together}) > 2, "all alike would show little"


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_different_lengths_are_read_as_each_alone(kind):
    """Logits, in three calls: prompts, then pieces of other lengths, then a token each."""
    model = model_of(kind)
    rows = torch.randint(61, (3, 24), generator=torch.Generator().manual_seed(1))
    pieces = [[5, 1, 9], [2, 7, 4], [1, 1, 1]]
    cache, starts = model.new_cache(20, 3), [0, 0, 0]
    for counts in pieces:
        tokens = torch.zeros(3, max(counts), dtype=torch.long)
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            tokens[row, :count] = rows[row, start : start + count]
        logits = model(tokens, cache, new_lengths=counts)
        starts = [start + count for start, count in zip(starts, counts, strict=True)]
        for row, (end, count) in enumerate(zip(starts, counts, strict=True)):
            torch.testing.assert_close(
                logits[row, :count], model(rows[row : row + 1, :end])[0, end - count :]
            )
    assert cache.lengths == [8, 9, 14] == starts


@calm
@given(st.data())
def test_any_requests_side_by_side_are_those_alone(data):
    model = model_of(data.draw(st.sampled_from(sorted(KINDS))))
    prompts = data.draw(
        st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=48), min_size=1, max_size=5)
    )
    dials = [
        (data.draw(st.integers(0, 12)), data.draw(st.sets(st.integers(0, 60), max_size=6))) for _ in prompts
    ]
    requests = [Request(prompt, n, stop=stop) for prompt, (n, stop) in zip(prompts, dials, strict=True)]
    expected = [
        alone(model, request.prompt, request.max_new_tokens, stop=request.stop) for request in requests
    ]
    assert write(model, requests) == expected
    assert [text for text in _collect(decode(model, requests, cached=False), len(requests))] == expected


def _collect(steps, n):
    texts = [[] for _ in range(n)]
    for step in steps:
        for row, token in step:
            texts[row].append(token)
    return texts


@pytest.mark.parametrize(
    "change",
    [
        pack,
        partial(use_kernels, backend="triton"),
        partial(attach, method=LoRA(2)),
        partial(attach, method=Prefix(3)),
    ],
)
def test_changed_models_write_side_by_side_too(change):
    model = random_weights(tiny_decoder(), spread=0.3).float()
    change(model)
    assert write(model, [Request(prompt, 6) for prompt in PROMPTS]) == [
        alone(model, prompt, 6) for prompt in PROMPTS
    ]


def test_each_row_has_its_own_sampler_whoever_else_is_there():
    model = model_of("Llama's")

    def request(i, prompt):
        return Request(
            prompt, 6 + i, partial(sample, temperature=1.0, generator=torch.Generator().manual_seed(i))
        )

    together = write(model, [request(i, prompt) for i, prompt in enumerate(PROMPTS)])
    apart = [write(model, [request(i, prompt)])[0] for i, prompt in enumerate(PROMPTS)]
    assert together == apart and together[1] != together[3], "equal prompts, other seeds"


def test_a_shared_sampler_draws_for_those_that_ended_too():
    """So one row's text doesn't depend on when another ended."""
    model = model_of("Llama's")

    def written(most):
        choose = partial(sample, temperature=1.0, generator=torch.Generator().manual_seed(3))
        return write(model, [Request([4, 5], n, choose) for n in most])

    long, short = written([8, 8, 8]), written([8, 2, 5])
    assert short == [text[:n] for text, n in zip(long, [8, 2, 5], strict=True)]


def test_a_row_that_ends_leaves_the_batch():
    model, seen = model_of("Llama's"), []
    hidden = model.last_hidden_state
    model.last_hidden_state = lambda tokens, *rest, **named: (
        seen.append(len(tokens)) or hidden(tokens, *rest, **named)
    )
    steps = list(decode(model, [Request([1, 2], 1), Request([3], 4), Request([4, 4, 4], 2)]))
    assert [[row for row, _ in step] for step in steps] == [[0, 1, 2], [1, 2], [1], [1]]
    assert seen == [3, 2, 1, 1]


def test_penalties_know_what_each_row_has_written():
    model = model_of("Llama's")

    def adjust(logits, tokens):
        return repetition_penalty(logits, tokens, 1e6)

    together = write(model, [Request(prompt, 8, adjust=adjust) for prompt in PROMPTS])
    assert together == [alone(model, prompt, 8, adjust=adjust) for prompt in PROMPTS]
    for prompt, text in zip(PROMPTS, together, strict=True):
        assert len({*text} - {*prompt}) == 8
    half = write(
        model, [Request(prompt, 8, adjust=adjust if i % 2 else None) for i, prompt in enumerate(PROMPTS)]
    )
    assert half == [together[i] if i % 2 else alone(model, prompt, 8) for i, prompt in enumerate(PROMPTS)]


class Penalty:
    """A callable that can't be hashed, and answers in 32 bits whatever it is given."""

    __hash__ = None

    def __eq__(self, other):
        return True

    def __call__(self, logits, tokens):
        return repetition_penalty(logits.float(), tokens, 1.3)


class Drawn:
    """A sampler that can't be hashed, with draws of its own; keeps what it was given."""

    __hash__ = None

    def __init__(self, seed):
        self.generator, self.given = torch.Generator().manual_seed(seed), []

    def __eq__(self, other):
        return True

    def __call__(self, logits):
        self.given.append((logits, logits.clone()))
        return sample(logits, temperature=1.0, generator=self.generator)


def test_what_is_adjusted_keeps_its_precision_whoever_else_is_there():
    """In 16 bits a penalty in 32 stays one, beside texts of other lengths and without penalty; and no one's
    logits change afterwards.
    """
    model = model_of("Llama's").bfloat16()
    adjusts = [Penalty(), None, Penalty(), None, Penalty()]

    def requests():
        return [Request(prompt, 3 + i, Drawn(i), adjust=adjusts[i]) for i, prompt in enumerate(PROMPTS)]

    asked = requests()
    write(model, asked)
    for request, adjust in zip(asked, adjusts, strict=True):
        assert {logits.dtype for logits, _ in request.choose.given} == {
            torch.bfloat16 if adjust is None else torch.float32
        }
        assert len(request.choose.given) == request.max_new_tokens
        assert all(logits.equal(as_given) for logits, as_given in request.choose.given)
    exact = model.double()
    assert write(exact, requests()) == [write(exact, [request])[0] for request in requests()]


def test_tokens_come_as_they_are_chosen():
    model, chosen = model_of("Llama's"), []

    def choose(logits):
        chosen.append(len(logits))
        return sample(logits)

    steps = decode(model, [Request([1], 3, choose), Request([2, 3], 3, choose)])
    assert chosen == [] and len(next(steps)) == 2 and chosen == [2]
    assert [len(step) for step in steps] == [2, 2]


def test_equal_prompts_are_read_once():
    model, seen = model_of("Llama's"), []
    hidden = model.last_hidden_state
    model.last_hidden_state = lambda tokens, *rest, **named: (
        seen.append(tuple(tokens.shape)) or hidden(tokens, *rest, **named)
    )
    continuations(model, [1, 2, 3], 5, 2)
    write(model, [Request(prompt, 2) for prompt in ([1, 2], [3, 4, 5], [1, 2])])
    assert seen == [(1, 3), (5, 1), (2, 3), (3, 1)]


@pytest.mark.parametrize("tokens", [[1], [1, 2, 3]])
def test_a_choice_for_other_rows_than_there_are_is_refused(tokens):
    with pytest.raises(ValueError, match="2 rows of logits and must give one token for each"):
        write(
            model_of("Llama's"),
            [Request([1], 2, choose := lambda logits: torch.tensor(tokens)), Request([2], 2, choose)],
        )


def test_impossible_requests_are_refused_at_the_call():
    model = model_of("Llama's")
    for request, message in (
        (Request([]), "the prompt is empty"),
        (Request([1] * 49), "49 tokens don't fit the context of 48"),
    ):
        with pytest.raises(ValueError, match=message):
            decode(model, [Request([1]), request])
    with pytest.raises(ValueError, match="max_new_tokens must be a whole number, at least 0, not -1"):
        Request([1], -1)
    with pytest.raises(ValueError, match="nothing to write"):
        decode(model, [])
    assert write(model, [Request([1], 0), Request([2], 1)])[0] == []


def test_a_batch_can_be_stepped_by_hand():
    """As an engine does, that looks at the texts between the steps."""
    model = model_of("Llama's")
    batch = Batch(model, [Request([1, 2], 3), Request([3], 2)])
    while batch.active:
        batch.step()
    assert batch.texts == [[1, 2, *alone(model, [1, 2], 3)], [3, *alone(model, [3], 2)]]


def speculate(model, draft, texts, n, look_ahead=3):
    """Greedy speculative decoding (Leviathan et al. 2023) of rows side by side: a draft proposes, one run
    checks, the cache forgets what was wrong. How many tokens each row reads and keeps differs.
    """
    cache, texts, ends = (
        model.new_cache(48, len(texts)),
        list(map(list, texts)),
        [len(text) + n for text in texts],
    )
    while any(len(text) < end for text, end in zip(texts, ends, strict=True)):
        proposed = [alone(draft, text, look_ahead) for text in texts]
        unread = [
            [*text[length:], *more] for text, length, more in zip(texts, cache.lengths, proposed, strict=True)
        ]
        counts = list(map(len, unread))
        tokens = torch.tensor([[*row, *[0] * (max(counts) - len(row))] for row in unread])
        best = model(tokens, cache, new_lengths=counts).argmax(-1).tolist()
        for row, more in enumerate(proposed):
            verdict = best[row][counts[row] - len(more) - 1 : counts[row]]
            right = next((i for i, token in enumerate(more) if token != verdict[i]), len(more))
            texts[row] = [*texts[row], *verdict[: right + 1]][: ends[row]]
        cache.rewind([min(len(text) - 1, length) for text, length in zip(texts, cache.lengths, strict=True)])
    return texts


def test_speculation_can_be_built_on_it():
    model, draft = model_of("Llama's"), model_of("Llama's")
    for weight in draft.parameters():
        weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    texts = speculate(model, draft, PROMPTS, 9)
    assert texts == [[*prompt, *alone(model, prompt, 9)] for prompt in PROMPTS]
    kept = [
        sum(a == b for a, b in zip(alone(model, text, 6), alone(draft, text, 6), strict=True))
        for text in PROMPTS
    ]
    assert 0 < sum(kept) < 6 * len(PROMPTS), "some proposals are right and some wrong"


# Translations


def translator(**kind):
    torch.manual_seed(0)
    return random_weights(EncoderDecoder(tiny_config(**kind)), spread=0.2).requires_grad_(False)


def test_translations_of_different_sources_are_written_side_by_side():
    model = translator()
    sources, real = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0], [9, 0, 0, 0]]), torch.tensor([4, 2, 1])
    real = torch.arange(4) < real[:, None]
    requests = [Request([1], 6), Request([1, 2], 3), Request([1], 5)]
    together = _collect(decode(model.decoder, requests, memory=model.encode(sources, real)), 3)
    for i, request in enumerate(requests):
        source = sources[i : i + 1, : int(real[i].sum())]
        assert together[i] == alone(
            model.decoder, request.prompt, request.max_new_tokens, memory=model.encode(source)
        )


def test_cross_attention_projects_its_source_once():
    model, calls = translator(), []
    for block in model.decoder.blocks:
        block.cross_attention.key.register_forward_hook(lambda *_: calls.append(1))
    memory = model.encode(torch.tensor([[3, 4, 5]]))
    text = alone(model.decoder, [1], 6, memory=memory)
    assert len(text) == 6 and len(calls) == model.config.n_layers
    logits = model.decoder(torch.tensor([[1, *text]]), memory=memory)
    assert logits[0, :-1].argmax(-1).tolist() == text
    projected = model.decoder(torch.tensor([[1, *text]]), memory=model.decoder.project_memory(memory))
    torch.testing.assert_close(projected, logits)


# The cache


def filled(lengths=(5, 2), capacity=12):
    model = tiny_decoder()
    cache = model.new_cache(capacity, len(lengths))
    tokens = torch.randint(61, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0))
    model(tokens, cache, new_lengths=list(lengths))
    return model, tokens, cache


def test_a_cache_rewound_is_as_if_the_rest_had_never_been_read():
    model, tokens, cache = filled()
    cache.rewind([3, 2])
    assert cache.lengths == [3, 2]
    logits = model(torch.tensor([[9], [9]]), cache)
    for row, length in enumerate((3, 2)):
        text = torch.cat([tokens[row, :length], torch.tensor([9])])[None]
        torch.testing.assert_close(logits[row, -1], model(text)[0, -1])
    cache.rewind(0)
    torch.testing.assert_close(model(tokens, cache), model(tokens))
    cache.reset()
    assert cache.lengths == [0, 0]


@pytest.mark.parametrize("lengths", [-1, 3, [5, 3], [6, 2], [5, -1], [5], [5, 2, 0]])
def test_a_cache_is_not_rewound_to_what_it_does_not_hold(lengths):
    _, _, cache = filled()
    with pytest.raises(ValueError, match="can't be rewound"):
        cache.rewind(lengths)
    assert cache.lengths == [5, 2]


def test_copies_go_their_own_ways():
    model, _, cache = filled()
    other = cache.copy()
    model(torch.tensor([[1], [2]]), cache)
    assert other.lengths == [5, 2] and cache.lengths == [6, 3]
    first, second = (model(torch.tensor([[1], [2]]), each) for each in (other, filled()[2]))
    torch.testing.assert_close(first, second)


def test_rows_are_chosen_and_repeated():
    model, _, cache = filled()
    chosen = cache.select([1, 0, 1], capacity=6)
    assert chosen.lengths == [2, 5, 2] and chosen.capacity == 6
    logits, wanted = model(torch.tensor([[7], [7], [7]]), chosen), model(torch.tensor([[7], [7]]), cache)
    torch.testing.assert_close(logits, wanted[[1, 0, 1]])
    for rows, capacity in (([], 6), ([2], 6), ([-1], 6), ([0], 4)):
        with pytest.raises(ValueError, match="rows 0 to 1|doesn't hold rows of up to 6"):
            cache.select(rows, capacity)


@pytest.mark.parametrize("counts", [[3], [3, 2], [-1, 4], [4, 5], [4, 4, 4]], ids=str)
def test_new_lengths_are_for_each_row_and_of_what_is_there(counts):
    model = tiny_decoder()
    with pytest.raises(
        ValueError, match="new_lengths must say for each of 2 rows how many of its 4 tokens are real"
    ):
        model(torch.ones(2, 4, dtype=torch.long), model.new_cache(8, 2), new_lengths=counts)


def test_a_ragged_cache_that_overflows_stays_as_it_was():
    model, _, cache = filled(capacity=6)
    with pytest.raises(ValueError, match="holds 6 tokens and 7 were asked"):
        model(torch.ones(2, 2, dtype=torch.long), cache)
    assert cache.lengths == [5, 2]
    model(torch.ones(2, 4, dtype=torch.long), cache, new_lengths=[1, 4])
    assert cache.lengths == [6, 6]


def test_a_cache_asks_for_four_numbers_and_no_configuration():
    cache = KVCache(3, 2, 8, 10, dtype=DOUBLE)
    tokens, model = torch.tensor([[1, 2, 3]]), tiny_decoder()
    torch.testing.assert_close(model(tokens, cache), model(tokens))


# The dials that families need


def test_a_window_sees_only_so_many():
    model, tokens = model_of("a sliding window"), torch.randint(61, (1, 14))
    trace = Trace("*.weights")
    model(tokens, trace=trace)
    ones = torch.ones(14, 14, dtype=torch.bool)
    assert torch.equal(trace.attention() > 0, (ones.tril() & ones.triu(-3)).expand(3, 6, 14, 14))


def test_every_so_many_layers_one_sees_all():
    config = tiny_config(n_layers=6, window=3, global_every=3)
    assert [config.window_of(layer) for layer in range(6)] == [3, 3, None, 3, 3, None]
    trace = Trace("*.weights")
    random_weights(Decoder(config))(torch.randint(61, (1, 9)), trace=trace)
    assert (trace.attention()[:, 0, -1] > 0).sum(-1).tolist() == [3, 3, 9, 3, 3, 9]


def test_capped_logits_and_scores_stay_below_their_caps():
    model = model_of("soft caps", cap=0.5)
    tokens = torch.randint(61, (1, 12))
    assert model(tokens).abs().max() < 3.0
    trace = Trace("*.weights")
    model(tokens, trace=trace)
    least, most = trace.attention()[..., -1, :].aminmax(dim=-1)
    assert (most / least).max() < torch.e  # scores between −½ and ½ can't be further apart


@pytest.mark.parametrize(
    "dials",
    [{"window": 0}, {"global_every": 2}, {"window": 3, "global_every": -1}, {"cap": 0.0}, {"logit_cap": -1.0},
     {"scale": float("inf")}],
    ids=str,
)  # fmt: skip
def test_impossible_dials_are_refused(dials):
    with pytest.raises(ValueError, match="window|above 0, or None|finite"):
        tiny_config(**dials)


def test_experts_do_not_care_who_else_is_in_the_batch():
    model = model_of("experts")
    assert any(isinstance(part, Experts) for part in model.modules())
    assert write(model, [Request([1, 2, 3], 5), Request([9], 5)])[1] == alone(model, [9], 5)


# The plain loop


@pytest.mark.parametrize("stop", [(), (7, 11)])
def test_with_and_without_a_cache_it_writes_what_the_plain_loop_writes(stop):
    model = random_weights(Decoder(tiny_config()))
    for prompt in ([3], [5, 9, 2, 60]):
        plain = list(generate_plainly(model, prompt, 20, stop=stop))
        assert plain == list(generate(model, prompt, 20, stop=stop))
        assert plain == list(generate(model, prompt, 20, stop=stop, cached=False))
