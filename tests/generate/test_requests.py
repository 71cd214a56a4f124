"""What is asked of the functions that write: ids in any form, text and fractions in none."""

import math

import numpy as np
import pytest
import torch
from references import random_tokens, smollm2, tiny_decoder

from course_lib.generate import (
    Batch,
    Request,
    best_of,
    complete,
    continuations,
    decode,
    generate,
    generate_plainly,
    sample,
    write,
)

PROMPT = [3, 1, 4]
# The same ids in every form in which they come.
FORMS = {
    "a list": list,
    "a tuple": tuple,
    "a generator": lambda ids: (i for i in ids),
    "a map": lambda ids: map(int, ids),
    "an array": np.array,
    "an array of 16 bits": lambda ids: np.array(ids, dtype=np.uint16),
    "a tensor": torch.tensor,
    "a tensor of 32 bits": lambda ids: torch.tensor(ids, dtype=torch.int32),
    "a list of tensors": lambda ids: list(torch.tensor(ids)),
    "a list of NumPy's numbers": lambda ids: list(np.array(ids)),
    "a set's or a dictionary's values": lambda ids: dict(enumerate(ids)).values(),
}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@pytest.fixture(scope="module")
def model():
    return tiny_decoder(torch.float32)


def writers(model):
    """Every function that writes, as a function of prompt and options."""
    return {
        "generate": lambda prompt, **options: list(generate(model, prompt, 8, **options)),
        "plainly": lambda prompt, **options: list(generate_plainly(model, prompt, 8, **options)),
        "continuations": lambda prompt, **options: continuations(model, prompt, 1, 8, **options)[0],
        "write": lambda prompt, **options: write(model, [Request(prompt, 8, **options)])[0],
        "decode": lambda prompt, **options: [
            token for step in decode(model, [Request(prompt, 8, **options)]) for _, token in step
        ],
    }


each_writer = pytest.mark.parametrize("name", writers(None))


@each_writer
@each_form
def test_ids_may_come_in_any_form(model, name, form):
    function = writers(model)[name]
    whole = function(PROMPT)
    stop = whole[3]
    wanted = whole[: whole.index(stop)]
    assert function(form(PROMPT)) == whole
    assert function(PROMPT, stop=form([stop, 60])) == wanted


@each_writer
@pytest.mark.parametrize(
    "stop",
    [b"a", bytearray(b"a"), [b"a"], "<|im_end|>", ["<|im_end|>"], {"<|im_end|>": 2}, ("a", 2), [2, "b"]],
)
def test_text_never_stops_a_text_and_the_message_says_what_does(model, name, stop):
    with pytest.raises(
        ValueError, match=r'stop must be token ids, not text.*tokenizer.special\["<\|im_end\|>"\]'
    ):
        writers(model)[name](PROMPT, stop=stop)


def test_the_advice_is_right():
    lm = smollm2()
    prompt = lm.chat.encode("What is the capital of France?")
    ended = list(generate(lm.model, prompt, 30, stop=[lm.tokenizer.special["<|im_end|>"]]))
    assert lm.tokenizer.decode(ended) == "".join(complete(lm, "What is the capital of France?", 30))
    assert 0 < len(ended) < 30


@each_writer
@pytest.mark.parametrize(
    "stop", [2, None, [2.0], [None], [True], [-1], [2**64], torch.tensor([2.5]), [[2]], 2.5]
)
def test_what_is_no_id_is_refused_as_a_stop(model, name, stop):
    with pytest.raises(ValueError, match="stop must be a row of token ids, whole numbers from 0 on, not"):
        writers(model)[name](PROMPT, stop=stop)


@each_writer
@pytest.mark.parametrize("prompt", ["Hello", ["Hello"], [1, "a"], b"Hello", bytearray(b"Hello"), [b"Hello"]])
def test_a_prompt_of_text_is_to_be_encoded_first(model, name, prompt):
    with pytest.raises(ValueError, match="the prompt must be token ids, not text.*tokenizer.encode"):
        writers(model)[name](prompt)


@each_writer
@pytest.mark.parametrize(
    "prompt",
    [5, None, [1.0], torch.ones(3), torch.ones(1, 3).long(), [-1], [math.nan], torch.tensor(5), [None]],
)
def test_what_is_no_id_is_refused_as_a_prompt(model, name, prompt):
    with pytest.raises(ValueError, match="the prompt must be a row of token ids"):
        writers(model)[name](prompt)


def likeliest(logits):
    return logits.argmax(dim=-1)


def first(logits):
    return torch.zeros(len(logits), dtype=torch.long)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("choose", [likeliest, first, sample])
@pytest.mark.parametrize("name", ["generate", "continuations", "write"])
def test_weights_that_are_no_numbers_write_nothing(name, choose, dtype):
    broken = tiny_decoder(dtype, tie_embeddings=False)
    with torch.no_grad():
        broken.head.weight[5] = math.nan
    run = {
        "generate": lambda: list(generate(broken, PROMPT, 3, choose)),
        "continuations": lambda: continuations(broken, PROMPT, 2, 3, choose),
        "write": lambda: write(broken, [Request(PROMPT, 3, choose), Request(PROMPT[:2], 3, choose)]),
    }[name]
    with pytest.raises(ValueError, match="the logits hold NaN, so there is nothing to choose by"):
        run()


def test_a_penalty_of_nan_is_refused_before_a_choice(model):
    with pytest.raises(ValueError, match="the logits hold NaN"):
        list(generate(model, PROMPT, 3, likeliest, adjust=lambda logits, tokens: logits * math.nan))


def test_a_choice_may_be_forced_by_infinity(model):
    def force(logits, tokens):
        return logits.index_fill(-1, torch.tensor([7]), math.inf)

    assert list(generate(model, PROMPT, 3, likeliest, adjust=force)) == [7, 7, 7]


def test_a_prompt_outside_the_vocabulary_is_refused(model):
    for prompt in ([61], [2**40], torch.tensor([70])):
        with pytest.raises(ValueError, match="the vocabulary holds 0 to 60"):
            list(generate(model, prompt))


@pytest.mark.parametrize("n", [1.5, 2.0, "3", None, math.nan, math.inf, True, -1, 2**70])
def test_numbers_of_tokens_and_texts_are_whole(model, n):
    for function in (
        lambda: generate(model, PROMPT, max_new_tokens=n),
        lambda: Request(PROMPT, n),
        lambda: continuations(model, PROMPT, 2, max_new_tokens=n),
    ):
        with pytest.raises(ValueError, match="max_new_tokens must be a whole number, at least 0, not"):
            function()
    with pytest.raises(ValueError, match="n must be a whole number, from 1 to 1000000, not"):
        continuations(model, PROMPT, n)
    assert continuations(model, PROMPT, np.int64(2), np.int64(3)) == continuations(model, PROMPT, 2, 3)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (torch.tensor([1.0]), "whole numbers"),
        ([2.5], "whole numbers"),
        (None, "whole numbers"),
        ("a", "whole numbers"),
        (torch.tensor([True]), "whole numbers"),
        ([-1], "tokens from 0 to 60, the vocabulary's"),
        (61, "tokens from 0 to 60, the vocabulary's"),
    ],
)
def test_what_is_chosen_is_a_token_also_when_it_is_the_last(model, chosen, message):
    with pytest.raises(ValueError, match=message):
        write(model, [Request(PROMPT, 1, choose=lambda logits: chosen)])


def test_what_is_chosen_may_be_a_number_or_a_list_or_of_few_bits(model):
    for chosen in (7, [7], np.array([7]), torch.tensor([[7]]), torch.tensor([7], dtype=torch.uint8)):
        assert write(model, [Request(PROMPT, 2, choose=lambda logits, chosen=chosen: chosen)]) == [[7, 7]]


def test_adjusting_and_choosing_are_done_by_functions(model):
    for options, name in (({"choose": 5}, "choose"), ({"adjust": "penalty"}, "adjust")):
        with pytest.raises(ValueError, match=f"{name} must be a function"):
            generate(model, PROMPT, **options)
    with pytest.raises(ValueError, match="must give as many back, not NoneType"):
        list(generate(model, PROMPT, adjust=lambda logits, tokens: None))


def test_requests_may_come_from_a_generator(model):
    prompts = random_tokens(model, batch=3).tolist()
    wanted = [list(generate(model, prompt, 5)) for prompt in prompts]
    assert write(model, (Request(prompt, 5) for prompt in prompts)) == wanted
    assert write(model, map(lambda prompt: Request(prompt, 5), prompts)) == wanted  # noqa: C417 - a map itself
    batch = Batch(model, iter([Request(prompt, 5) for prompt in prompts]))
    while batch.active:
        batch.step()
    assert batch.texts == [[*prompt, *text] for prompt, text in zip(prompts, wanted, strict=True)]
    for nothing in ([], iter([])):
        with pytest.raises(ValueError, match="nothing to write"):
            write(model, nothing)
    with pytest.raises(ValueError, match=r"give a list of Request\(prompt, …\), not of list"):
        write(model, prompts)


def test_the_best_may_be_sought_in_a_generator():
    assert best_of((word for word in ("a", "ccc", "bb")), len) == "ccc"
    for score in (lambda word: None, lambda word: "high", lambda word: math.nan):
        with pytest.raises(ValueError, match="candidate 0 has no score"):
            best_of(["a"], score)
