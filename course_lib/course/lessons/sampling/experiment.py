"""The long run of the lesson on sampling: what each parameter does to SmolLM2's texts, over several prompts.

    python -m course_lib.course.lessons.sampling.experiment

writes `assets/sampling_curves.json` anew, in about fifteen minutes on two cores. The texts are drawn with
fixed seeds. On another machine, or if `pack` adds in another order, 16-bit rounding may lead to other words
and to slightly different means. The stored log was written before `pack` computed norms in one step.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from course_lib.course.lessons.sampling.prompts import PAIRS, PROMPTS, QUESTIONS
from course_lib.evaluate import contains, distinct, entropy, find_loop, log_likelihood, repeated
from course_lib.families import load_smollm2
from course_lib.generate.decode import continuations, generate
from course_lib.generate.pack import pack
from course_lib.generate.sampling import KNOBS, draw, greedy, repetition_penalty, sample
from course_lib.model import LanguageModel

PATH = Path(__file__).parents[4] / "assets" / "sampling_curves.json"
ROWS, TOKENS, GREEDY_TOKENS = 8, 48, 200
IN_CURVES = 6  # The curves use the first prompts; the loops of greedy decoding use all of them.

SETTINGS = {
    "temperature": (0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 2.0),
    "top_k": (1, 5, 20, 50, 200, 1000, 49152),
    "top_p": (0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 1.0),
    "min_p": (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.0),
    "repetition_penalty": (1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 2.0),
}
ANSWER_TEMPERATURES = (0.0, 0.3, 0.7, 1.0, 1.5, 2.0)
POOL = 48  # candidates for a request

Choose = Callable[[Tensor], Tensor]  # logits, (rows, vocab_size) → tokens, (rows,)


def record_steps(adjust: Callable[[Tensor], Tensor], choose: Choose, records: list) -> Choose:
    """Return a function that applies `adjust`, then `choose`, and appends a record of each step to `records`.

    A record is the entropy of the adjusted distribution, (rows,), and the log-probability of the chosen
    tokens under the distribution that is not adjusted, (rows,).
    """

    def recording(logits: Tensor) -> Tensor:
        adjusted = adjust(logits)  # (rows, vocab_size)
        tokens = choose(adjusted)  # (rows,)
        plain = logits.float().log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0]  # (rows,)
        records.append((entropy(adjusted), plain))
        return tokens

    return recording


def measure(
    lm: LanguageModel, prompt: str, knob: str, value: float, rows: int = ROWS, tokens: int = TOKENS
) -> dict:
    """Return means over `rows` continuations of a prompt, with one knob set and temperature 1 otherwise.

    The repetition penalty is measured on one greedy continuation.
    """
    ids, records = lm.tokenizer.encode(prompt), []
    if knob == "repetition_penalty":
        texts = _write_with_penalty(lm, ids, value, tokens, records)
    else:
        texts = _write_with_knob(lm, ids, knob, value, rows, tokens, records)
    entropies, plain = (torch.stack(part, dim=1) for part in zip(*records, strict=True))  # (rows, tokens)
    written = [(row, i) for row, text in enumerate(texts) for i in range(len(text))]
    if knob == "repetition_penalty":
        log_probs = [log_likelihood(lm.model, ids, text).mean().item() for text in texts if text]
    else:
        log_probs = [plain[index].item() for index in written]
    return {
        "entropy": round(fmean(entropies[index].item() for index in written), 3),
        "log_likelihood": round(fmean(log_probs), 3),
        "repeated": round(fmean(repeated(text) for text in texts), 3),
        "distinct": round(distinct(texts), 3),
        "different": len(set(map(tuple, texts))),
    }


def _write_with_knob(
    lm: LanguageModel, ids: list[int], knob: str, value: float, rows: int, tokens: int, records: list
) -> list[list[int]]:
    """Draw `rows` continuations with one knob set."""
    choose = partial(draw, generator=torch.Generator().manual_seed(0))
    choose = record_steps(lambda logits: KNOBS[knob](logits.float(), value), choose, records)
    return continuations(lm.model, ids, rows, tokens, choose, None, lm.tokenizer.special.values())


def _write_with_penalty(
    lm: LanguageModel, ids: list[int], value: float, tokens: int, records: list
) -> list[list[int]]:
    """Write one greedy continuation with a repetition penalty."""
    choose = record_steps(lambda logits: logits, greedy, records)

    def penalize(logits: Tensor, seen: Tensor) -> Tensor:
        return repetition_penalty(logits.float(), seen, value)

    return continuations(lm.model, ids, 1, tokens, choose, penalize, lm.tokenizer.special.values())


def loops(lm: LanguageModel, prompt: str, tokens: int = GREEDY_TOKENS) -> dict:
    """Return whether greedy decoding ends in a loop, and how much it repeats."""
    ids = lm.tokenizer.encode(prompt)
    written = list(generate(lm.model, ids, tokens, stop=lm.tokenizer.special.values()))
    return {
        "prompt": prompt,
        "tokens": len(written),
        "loop": find_loop(written),
        "repeated": round(repeated(written), 3),
    }


def answers(
    lm: LanguageModel, question: str, temperature: float, rows: int = ROWS, tokens: int = 24
) -> list[str]:
    """Return `rows` answers of the model to a question."""
    choose = partial(sample, temperature=temperature, generator=torch.Generator().manual_seed(0))
    ids = lm.chat.encode(question)
    texts = continuations(lm.model, ids, rows, tokens, choose, stop=lm.tokenizer.special.values())
    return [lm.tokenizer.decode(text) for text in texts]


def request(pair: tuple[str, str]) -> str:
    return f"Write one short sentence that contains the words {pair[0]} and {pair[1]}."


def points(text: str, pair: tuple[str, str]) -> int:
    """Return one point for each of the two words, and one for a single sentence of at most fifteen words.

    Quotation marks after the end of the sentence are allowed.
    """
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    text = text.rstrip().rstrip("\"'”’»")
    is_one_sentence = text[-1:] in ".!?" and sum(text.count(mark) for mark in ".!?") == 1
    return sum(word in words for word in pair) + (is_one_sentence and 0 < len(words) <= 15)


def pool(lm: LanguageModel, pair: tuple[str, str], size: int = POOL, tokens: int = 40) -> list[dict]:
    """Return candidates for one request at temperature 1.

    Each has its points, and its log-likelihood as a sum and per token.
    """
    ids = lm.chat.encode(request(pair))
    choose = partial(sample, temperature=1.0, generator=torch.Generator().manual_seed(0))
    texts = continuations(lm.model, ids, size, tokens, choose, stop=lm.tokenizer.special.values())
    return [_candidate(lm, ids, text, pair) for text in texts]


def _candidate(lm: LanguageModel, ids: list[int], text: list[int], pair: tuple[str, str]) -> dict:
    # The end mark counts too: without it, an empty text would have probability 1.
    log_probs = log_likelihood(lm.model, ids, [*text, lm.tokenizer.special["<|im_end|>"]])
    return {
        "text": lm.tokenizer.decode(text),
        "points": points(lm.tokenizer.decode(text), pair),
        "log_likelihood": round(log_probs.sum().item(), 2),
        "per_token": round(log_probs.mean().item(), 3),
        "tokens": len(text),
    }


def main() -> None:
    lm = load_smollm2(torch.bfloat16)
    pack(lm.model)
    log = {"rows": ROWS, "tokens": TOKENS, "greedy_tokens": GREEDY_TOKENS, "prompts": PROMPTS[:IN_CURVES]}
    log["greedy"] = [loops(lm, prompt) for prompt in PROMPTS]
    print("greedy", flush=True)
    log["best_of"] = {" ".join(pair): pool(lm, pair) for pair in PAIRS}
    print("best of", flush=True)
    log["questions"] = {str(t): _score_answers(lm, t) for t in ANSWER_TEMPERATURES}
    log["knobs"] = {}
    for knob, values in SETTINGS.items():
        log["knobs"][knob] = {
            str(value): [measure(lm, prompt, knob, value) for prompt in PROMPTS[:IN_CURVES]]
            for value in values
        }
        print(knob, flush=True)
    PATH.write_text(_format_log(log), encoding="utf-8")


def _score_answers(lm: LanguageModel, temperature: float) -> dict:
    """Return, for each question, the share of right answers and the share of distinct words."""
    right, words = [], []
    for question, solutions in QUESTIONS.items():
        given = answers(lm, question, temperature)
        right.append(fmean(contains(answer, solutions) for answer in given))
        words.append(distinct([answer.split() for answer in given], n=1))
    return {"right": [round(share, 3) for share in right], "distinct": [round(share, 3) for share in words]}


def _format_log(log: dict) -> str:
    """Return JSON with one line for each entry, so that it is readable and its diffs are small."""
    dumps, lines = partial(json.dumps, ensure_ascii=False), []
    for name, value in log.items():
        if isinstance(value, dict):
            entries = [f"  {dumps(key)}: {dumps(entry)}" for key, entry in value.items()]
            lines.append(f"{dumps(name)}: {{\n" + ",\n".join(entries) + "\n }")
        else:
            lines.append(f"{dumps(name)}: {dumps(value)}")
    return "{\n " + ",\n ".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
