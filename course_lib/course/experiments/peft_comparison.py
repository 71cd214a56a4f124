"""Ways of fine-tuning side by side on the small model of the world: how `assets/peft_comparison.json` was made.

    python -m course_lib.course.experiments.peft_comparison      tries rates, trains with five seeds, writes the file (a quarter of an hour on one core)

Two tasks. "who was what": after a story and a bare answer mark, say whom its reason describes ("the thirsty tiger"); the model knows all that
this takes, but has never said it so. "French": translate; the model has never seen a French word. Each way of fine-tuning gets the
learning rate, among those tried, whose loss on stories set aside for choosing is lowest; it is then scored on others.
"""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

from course_lib.evaluate import accuracy, teacher_forced
from course_lib.families import load_world
from course_lib.model import LanguageModel
from course_lib.quantize import NF4, quantize_linears
from course_lib.train.config import TrainConfig
from course_lib.train.data import Examples, answer_only
from course_lib.train.loop import train
from course_lib.train.peft import Bottleneck, LoRA, Method, Prefix, SoftPrompt, attach, in_front
from course_lib.train.sft import Example
from course_lib.world import ANSWER, END, Story, stories, translations

EVERY = ("query", "key", "value", "output", "gate", "up", "down")  # all matrices of a block
RATES = {"full": (3e-4, 1e-3, 3e-3), "LoRA": (3e-3, 1e-2, 3e-2), "adapters": (3e-3, 1e-2, 3e-2)}
PROMPT_RATES = (3e-2, 1e-1, 3e-1, 1.0)
STEPS, BATCH, SEEDS = 100, 16, 5
FRENCH_STEPS, FRENCH_SEEDS = 300, 3


@dataclass(frozen=True)
class Way:
    """A way of fine-tuning. method: None trains the model's own weights. prepare: what is done to the base first. also: weights
    of the model that are trained besides a method's, by name; without a method, those alone."""

    name: str
    method: Method | None
    rates: tuple[float, ...]
    prepare: Callable[[nn.Module], nn.Module] | None = None
    also: tuple[str, ...] = ()


WAYS = (
    Way("full", None, RATES["full"]),
    *(Way(f"LoRA, rank {rank}", LoRA(rank, 2 * rank, EVERY), RATES["LoRA"]) for rank in (1, 2, 4, 8, 16)),
    Way("adapters, width 16", Bottleneck(16), RATES["adapters"]),
    Way("soft prompt, 16 tokens", SoftPrompt(16), PROMPT_RATES),
    Way("prefix, 16 tokens", Prefix(16), PROMPT_RATES),
    Way("QLoRA, rank 8", LoRA(8, 16, EVERY), RATES["LoRA"], partial(quantize_linears, format=NF4())),
)
BY_NAME = {way.name: way for way in WAYS}
FRENCH_WAYS = (
    *(BY_NAME[name] for name in ("full", "LoRA, rank 1", "LoRA, rank 8", "soft prompt, 16 tokens")),
    Way("LoRA, rank 8, and table", LoRA(8, 16, EVERY), (1e-3, 3e-3), also=("embedding.weight",)),
    Way("table alone", None, (1e-3, 3e-3), also=("embedding.weight",)),
)


def who_was_what(lm: LanguageModel, story: Story) -> Example:
    """(story and answer mark, "the thirsty tiger"), as ids."""
    said = f"the {story.plot.reason} {story.plot.referent}"
    return tuple(lm.tokenizer.encode(text, allow_special=True) for text in (story.text + ANSWER, said + END))


def tell_who(lm: LanguageModel, seed: int, split: str, n: int) -> list[Example]:
    """n examples of the first task, from stories of one sentence."""
    return [who_was_what(lm, story) for story in islice(stories(seed, split, sentences=1), n)]


def french(lm: LanguageModel, seed: int, split: str, n: int) -> list[Example]:
    """n examples of the second."""
    pairs = islice(translations(seed, split), n)
    texts = ((pair.prompt, pair.completion + END) for pair in pairs)
    return [tuple(lm.tokenizer.encode(text, allow_special=True) for text in pair) for pair in texts]


def plain_stories(lm: LanguageModel, n: int) -> list[Example]:
    """Held-out stories as examples of which everything but the first token counts: what the model could do before."""
    texts = (story.text for story in islice(stories(4, "held_out", sentences=2), n))
    return [(ids[:1], ids[1:]) for ids in map(lm.tokenizer.encode, texts)]


def judge(model: nn.Module, examples: Sequence[Example], prompt: Sequence[int] = ()) -> dict[str, float]:
    """loss: nats a token of the answers. exact: share of answers that the model would write by itself, always taking the likeliest
    token. prompt: virtual tokens to stand in front."""
    pairs = [([*prompt, *question], answer) for question, answer in examples]
    forced = teacher_forced(model, pairs)
    exact = accuracy([bool(each.is_greedy.all()) for each in forced]).value
    return {"loss": -torch.cat([each.log_probs for each in forced]).mean().item(), "exact": exact}


def tune(
    lm: LanguageModel, way: Way, examples: Sequence[Example], rate: float, seed: int, steps: int = STEPS
) -> tuple[nn.Module, list[int], dict[str, float]]:
    """A tuned copy of the model, the virtual tokens it wants in front, and what it took."""
    model, prompt = copy.deepcopy(lm.model), []
    if way.prepare is not None:
        way.prepare(model)
    if way.method is None:
        model.requires_grad_(not way.also)
    else:
        attach(model, way.method, seed)
    for name in way.also:
        model.get_parameter(name).requires_grad_(True)
    if isinstance(way.method, SoftPrompt):
        prompt = way.method.ids(model)
    config = TrainConfig(steps=steps, learning_rate=rate, warmup=10, weight_decay=0.0)
    batches = in_front(prompt, Examples(examples, BATCH, answer_only, seed))
    start = perf_counter()
    train(model, batches, config, progress=False)
    seconds = (perf_counter() - start) / steps
    count = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return model, prompt, {"trained": count, "seconds a step": round(seconds, 4)}


def compare(lm: LanguageModel, task, ways: Sequence[Way], steps: int, seeds: int) -> list[dict]:
    """A row for each way: the rates tried with their losses, and the scores of every seed at the best of them."""
    examples, choosing, held = (
        task(lm, *of) for of in ((1, "train", 4000), (3, "held_out", 300), (2, "held_out", 300))
    )
    old, rows = plain_stories(lm, 200), []
    for way in ways:
        tried = {}
        for rate in way.rates:
            model, prompt, _ = tune(lm, way, examples, rate, seed=100, steps=steps)
            tried[rate] = round(judge(model, choosing, prompt)["loss"], 4)
        best, row = min(tried, key=tried.get), {"way": way.name, "rates tried": tried}
        runs = [tune(lm, way, examples, best, seed, steps) for seed in range(seeds)]
        scores = [judge(model, held, prompt) for model, prompt, _ in runs]
        row |= {"rate": best, "trained": runs[0][2]["trained"]}
        row |= {name: [round(score[name], 4) for score in scores] for name in scores[0]}
        row["loss on stories"] = [round(judge(m, old, p)["loss"], 4) for m, p, _ in runs]
        rows.append(row)
        print(row["way"], best, row["exact"], row["loss on stories"], flush=True)
    return rows


def main(path: Path) -> None:
    torch.set_num_threads(1)
    lm = load_world()
    result = {
        "about": "made by python -m course_lib.course.experiments.peft_comparison",
        "before": {"loss on stories": round(judge(lm.model, plain_stories(lm, 200))["loss"], 4)},
        "settings": {"steps": STEPS, "batch": BATCH, "French steps": FRENCH_STEPS, "warmup": 10},
        "who was what": compare(lm, tell_who, WAYS, STEPS, SEEDS),
        "French": compare(lm, french, FRENCH_WAYS, FRENCH_STEPS, FRENCH_SEEDS),
    }
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path("assets/peft_comparison.json"))
