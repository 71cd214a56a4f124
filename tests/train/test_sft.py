"""Conversations as training examples: prompts, targets, and the conversations that are refused."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from references import smollm2

from course_lib import asset
from course_lib.families import load_world
from course_lib.text import ChatTemplate
from course_lib.train import IGNORE, Examples, answer_only, chat_examples, counted, next_token_loss

PAIRS = [("What is the capital of France?", "Paris."), ("Say no.", "No, I won't.")]


def with_template(source):
    lm = smollm2()
    return replace(lm, chat=ChatTemplate(source, lm.tokenizer))


def test_prompt_and_answer_are_the_conversation_up_to_the_end_of_the_turn():
    lm = smollm2()
    for (prompt, answer), (asked, response) in zip(chat_examples(lm, PAIRS), PAIRS, strict=True):
        assert prompt == lm.chat.encode(asked)
        text = lm.tokenizer.decode([*prompt, *answer])
        assert text.endswith(f"<|im_start|>assistant\n{response}<|im_end|>")
        assert lm.tokenizer.decode(answer) == f"{response}<|im_end|>"


def test_the_trained_prompts_are_those_of_generation():
    """A model trained on these examples is prompted through `lm.chat.encode`, with the same tokens."""
    lm = smollm2()
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]
    ((prompt, answer),) = chat_examples(lm, [(messages, "A tiger.")])
    assert prompt == lm.chat.encode(messages)
    assert lm.tokenizer.decode(answer) == "A tiger.<|im_end|>"
    assert answer[-1] in lm.tokenizer.special.values()


def test_only_the_response_counts_and_the_loss_by_hand():
    lm = smollm2()
    tokens, targets = batch = answer_only(chat_examples(lm, PAIRS))
    for row, goal, (prompt, answer) in zip(tokens, targets, chat_examples(lm, PAIRS), strict=True):
        counts = goal != IGNORE
        assert goal[counts].tolist() == answer
        assert counts.nonzero()[0] == len(prompt) - 1
        assert row[: len(prompt)].tolist() == prompt
    with torch.no_grad():
        loss, logits = next_token_loss(lm.model, batch), lm.model(tokens).log_softmax(dim=-1)
    counted_at = [(r, i) for r in range(2) for i in range(targets.shape[1]) if targets[r, i] != IGNORE]
    wanted = -sum(logits[r, i, targets[r, i]] for r, i in counted_at) / len(counted_at)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item() == pytest.approx(
        loss.item(), rel=1e-4
    )


def test_what_counts_is_made_visible():
    lm = smollm2()
    tokens, targets = answer_only(chat_examples(lm, PAIRS[:1]))
    shown = counted(lm.tokenizer, tokens[0], targets[0])
    assert [next for _, next, counts in shown if counts] == ["Paris", ".", "<|im_end|>"]
    assert [read for read, _, counts in shown if counts] == ["\n", "Paris", "."]
    assert all(next == "" for _, next, counts in shown if not counts)


def test_examples_make_batches():
    examples = chat_examples(smollm2(), PAIRS)
    tokens, targets = Examples(examples, batch=4, collate=answer_only)(0)
    assert tokens.shape == targets.shape and len(tokens) == 4


def test_what_is_refused():
    with pytest.raises(ValueError, match="no chat template"):
        chat_examples(load_world(), PAIRS)
    with pytest.raises(ValueError, match="empty"):
        chat_examples(smollm2(), [("Hello", "  ")])
    with pytest.raises(ValueError, match="forge"):
        chat_examples(smollm2(), [("Hello", "a<|im_end|>b")])
    with pytest.raises(ValueError, match="no text"):
        chat_examples(smollm2(), [("Hello", None)])
    opened = with_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(ValueError, match="open"):
        chat_examples(opened, PAIRS)
    changed = with_template(
        "{{ messages | length }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    )
    with pytest.raises(ValueError, match="doesn't begin"):
        chat_examples(changed, PAIRS)


TURNS = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@pytest.mark.parametrize(
    "source",
    [TURNS, (TURNS + OPEN).replace("m['content']", "m['content'] | upper")],
    ids=["not opened", "rewritten"],
)
def test_a_template_that_would_teach_something_else_is_refused(source):
    with pytest.raises(ValueError, match="doesn't hold its response"):
        chat_examples(with_template(source), PAIRS)
    assert len(chat_examples(with_template(TURNS + OPEN), PAIRS)) == 2


def test_the_tigers_questions_are_whole_and_kept_apart():
    voice = json.loads(asset("tiger_voice.json").read_text(encoding="utf-8"))
    asked, held = ([item["prompt"] for item in voice[part]] for part in ("train", "held_out"))
    assert 60 <= len(asked) == len(set(asked)) <= 100
    assert 20 <= len(held) == len(set(held)) and not set(asked) & set(held)
    assert all(item["fact"].endswith(".") for item in voice["train"])
    assert all(item["words"] and all(item["words"]) for item in voice["held_out"])
    assert voice["licence"] and voice["source"]
    facts = " ".join(item["fact"] for item in voice["train"])
    taught = [item["words"] for item in voice["held_out"] if all(word in facts for word in item["words"])]
    assert len(taught) < 8  # a few words occur (four legs, the opposite of …), the facts themselves don't


@pytest.mark.parametrize("pairs", [["hi"], "hi", [("Hi.", "Hello.", "Bye.")], {"Hi.": "Hello."}, [None], 5])
def test_what_is_no_pair_is_refused(pairs):
    """A text of two letters can be unpacked into a prompt and a response, too."""
    with pytest.raises(ValueError, match="pair"):
        chat_examples(smollm2(), pairs)


def test_pairs_and_messages_may_come_from_generators():
    lm = smollm2()
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]
    wanted = chat_examples(lm, [(messages, "A tiger."), *PAIRS])
    assert (
        chat_examples(lm, ((prompt, answer) for prompt, answer in [(iter(messages), "A tiger."), *PAIRS]))
        == wanted
    )
