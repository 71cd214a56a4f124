"""The long run behind lesson 19: what each knob does to SmolLM2's texts, over several prompts.

`python -m course_lib.course.experiments.sampling_curves` writes `assets/sampling_curves.json` anew, in about fifteen minutes on two cores.
Texts are drawn with fixed seeds. On another machine, or where `pack` adds up in another order, 16-bit rounding may lead to other
words, and to means a little different. The stored log is from before `pack` worked norms out in one step.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from course_lib.evaluate import contains, distinct, entropy, find_loop, log_likelihood, repeated
from course_lib.families import load_smollm2
from course_lib.generate.decode import continuations, generate
from course_lib.generate.pack import pack
from course_lib.generate.sampling import KNOBS, draw, greedy, repetition_penalty, sample
from course_lib.model import LanguageModel

PATH = Path(__file__).parents[3] / "assets" / "sampling_curves.json"
ROWS, TOKENS, GREEDY_TOKENS = 8, 48, 200
IN_CURVES = 6  # of the prompts

# The first for the curves, all of them for greedy's loops.
PROMPTS = (
    "Once upon a time there was a fox who",
    "Dear diary, today I",
    "The best way to learn to cook is",
    "The old lighthouse keeper opened the door and",
    "Scientists have discovered a new",
    "The train was late again, so",
    "My favourite thing about the sea is",
    "Yesterday my neighbour told me",
    "She looked at the letter and",
    "The recipe begins with two eggs and",
    "It was the coldest winter that",
    "The dog ran into the garden because",
    "Nobody in the village knew why",
    "When I was a child, my grandmother",
    "The museum has opened a new room for",
    "If you want to grow tomatoes,",
)
SETTINGS = {
    "temperature": (0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 2.0),
    "top_k": (1, 5, 20, 50, 200, 1000, 49152),
    "top_p": (0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 1.0),
    "min_p": (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.0),
    "repetition_penalty": (1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 2.0),
}

# Short answers; right is an answer that holds one of the words.
QUESTIONS = {
    "What is the capital of France?": ("paris",),
    "What is the capital of Italy?": ("rome",),
    "What is the capital of Japan?": ("tokyo",),
    "What is the capital of Egypt?": ("cairo",),
    "What is the capital of Spain?": ("madrid",),
    "What is the capital of Germany?": ("berlin",),
    "What is the largest planet in our solar system?": ("jupiter",),
    "Which planet is closest to the Sun?": ("mercury",),
    "What is the chemical symbol for gold?": ("au",),
    "What is the chemical formula of water?": ("h2o", "h₂o"),
    "How many days are in a week?": ("7", "seven"),
    "How many legs does a spider have?": ("8", "eight"),
    "Who wrote Romeo and Juliet?": ("shakespeare",),
    "Who painted the Mona Lisa?": ("leonardo", "vinci"),
    "In which continent is Kenya?": ("africa",),
    "What is the largest ocean on Earth?": ("pacific",),
}
ANSWER_TEMPERATURES = (0.0, 0.3, 0.7, 1.0, 1.5, 2.0)

# Asked for in one sentence together.
PAIRS = (
    ("tiger", "river"),
    ("clock", "bread"),
    ("moon", "ladder"),
    ("snow", "violin"),
    ("garden", "storm"),
    ("ship", "letter"),
)
POOL = 48


def watch(
    adjust: Callable[[Tensor], Tensor], choose: Callable[[Tensor], Tensor], notes: list
) -> Callable[[Tensor], Tensor]:
    """`choose` after `adjust`, noting for each token the entropy it was drawn from and its log-probability without `adjust`."""

    def watching(logits: Tensor) -> Tensor:
        adjusted = adjust(logits)
        tokens = choose(adjusted)
        plain = logits.float().log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0]
        notes.append((entropy(adjusted), plain))
        return tokens

    return watching


def measure(
    lm: LanguageModel, prompt: str, knob: str, value: float, rows: int = ROWS, tokens: int = TOKENS
) -> dict:
    """Mean over `rows` continuations of a prompt, with one knob turned and temperature 1 otherwise (for the penalty: greedy)."""
    ids, notes = lm.tokenizer.encode(prompt), []
    penalize = knob == "repetition_penalty"
    turn = (lambda logits: logits) if penalize else (lambda logits: KNOBS[knob](logits.float(), value))
    choose = greedy if penalize else partial(draw, generator=torch.Generator().manual_seed(0))
    adjust = (lambda logits, seen: repetition_penalty(logits.float(), seen, value)) if penalize else None
    stop = lm.tokenizer.special.values()
    texts = continuations(
        lm.model, ids, 1 if penalize else rows, tokens, watch(turn, choose, notes), adjust, stop
    )
    entropies, plain = (torch.stack(part, dim=1) for part in zip(*notes, strict=True))
    written = [(row, i) for row, text in enumerate(texts) for i in range(len(text))]
    likely = (
        [log_likelihood(lm.model, ids, text).mean().item() for text in texts if text]
        if penalize
        else [plain[spot].item() for spot in written]
    )
    return {
        "entropy": round(fmean(entropies[spot].item() for spot in written), 3),
        "log_likelihood": round(fmean(likely), 3),
        "repeated": round(fmean(repeated(text) for text in texts), 3),
        "distinct": round(distinct(texts), 3),
        "different": len(set(map(tuple, texts))),
    }


def loops(lm: LanguageModel, prompt: str, tokens: int = GREEDY_TOKENS) -> dict:
    """Whether greedy decoding goes in circles."""
    written = list(
        generate(lm.model, lm.tokenizer.encode(prompt), tokens, stop=lm.tokenizer.special.values())
    )
    return {
        "prompt": prompt,
        "tokens": len(written),
        "loop": find_loop(written),
        "repeated": round(repeated(written), 3),
    }


def answers(
    lm: LanguageModel, question: str, temperature: float, rows: int = ROWS, tokens: int = 24
) -> list[str]:
    """What the model says to a question, `rows` times."""
    choose = partial(sample, temperature=temperature, generator=torch.Generator().manual_seed(0))
    ids = lm.chat.encode(question)
    texts = continuations(lm.model, ids, rows, tokens, choose, stop=lm.tokenizer.special.values())
    return [lm.tokenizer.decode(text) for text in texts]


def request(pair: tuple[str, str]) -> str:
    return f"Write one short sentence that contains the words {pair[0]} and {pair[1]}."


def points(text: str, pair: tuple[str, str]) -> int:
    """0 to 3: one for each of the two words, and one if it is a single sentence of at most fifteen words.

    Quotation marks that follow the sentence's last mark don't spoil it.
    """
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    text = text.rstrip().rstrip("\"'”’»")
    one_short_sentence = (
        text[-1:] in ".!?" and sum(text.count(mark) for mark in ".!?") == 1 and 0 < len(words) <= 15
    )
    return sum(word in words for word in pair) + one_short_sentence


def pool(lm: LanguageModel, pair: tuple[str, str], size: int = POOL, tokens: int = 40) -> list[dict]:
    """Candidates for one request at temperature 1, each with its points and its log-likelihood (of the whole, and of a token)."""
    ids = lm.chat.encode(request(pair))
    choose = partial(sample, temperature=1.0, generator=torch.Generator().manual_seed(0))
    texts = continuations(lm.model, ids, size, tokens, choose, stop=lm.tokenizer.special.values())
    return [_candidate(lm, ids, text, pair) for text in texts]


def _candidate(lm: LanguageModel, ids: list[int], text: list[int], pair: tuple[str, str]) -> dict:
    # Ending is a choice too: without it a text of no token would be certain.
    each = log_likelihood(lm.model, ids, [*text, lm.tokenizer.special["<|im_end|>"]])
    return {
        "text": lm.tokenizer.decode(text),
        "points": points(lm.tokenizer.decode(text), pair),
        "log_likelihood": round(each.sum().item(), 2),
        "per_token": round(each.mean().item(), 3),
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
    log["questions"] = {str(t): _asked(lm, t) for t in ANSWER_TEMPERATURES}
    log["knobs"] = {}
    for knob, values in SETTINGS.items():
        log["knobs"][knob] = {
            str(value): [measure(lm, prompt, knob, value) for prompt in PROMPTS[:IN_CURVES]]
            for value in values
        }
        print(knob, flush=True)
    PATH.write_text(_one_line_an_entry(log), encoding="utf-8")


def _asked(lm: LanguageModel, t: float) -> dict:
    given = {question: answers(lm, question, t) for question in QUESTIONS}
    right = [
        fmean(contains(answer, QUESTIONS[question]) for answer in said) for question, said in given.items()
    ]
    words = [distinct([answer.split() for answer in said], n=1) for said in given.values()]
    return {"right": [round(share, 3) for share in right], "distinct": [round(share, 3) for share in words]}


def _one_line_an_entry(log: dict) -> str:
    """JSON whose nested tables stay readable and whose differences are small."""
    lines = []
    for name, value in log.items():
        if isinstance(value, dict):
            inner = ",\n".join(
                f"  {json.dumps(key)}: {json.dumps(part, ensure_ascii=False)}" for key, part in value.items()
            )
            lines.append(f"{json.dumps(name)}: {{\n{inner}\n }}")
        else:
            lines.append(f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n " + ",\n ".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
