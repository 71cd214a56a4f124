"""Compare fine-tuning methods on the small model of the world, and write `assets/peft_comparison.json`.

    python -m course_lib.course.lessons.parameter_efficient_fine_tuning.experiment

tries the learning rates, trains with several seeds and writes the file, in half an hour on one core.

There are two tasks. In "who was what" the prompt is a story and an answer mark, and the answer is whom the
reason describes ("the thirsty tiger"). The model has learned everything that this takes, but has never
written it in this form. In "French" the model translates; it has never seen a French word. For each method
the learning rate is chosen, among those tried, that gives the lowest loss on stories set aside for this
choice. The method is then scored on other stories.
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

ALL_MATRICES = ("query", "key", "value", "output", "gate", "up", "down")  # of a block
RATES = {"full": (3e-4, 1e-3, 3e-3), "LoRA": (3e-3, 1e-2, 3e-2), "adapters": (3e-3, 1e-2, 3e-2)}
PROMPT_RATES = (3e-2, 1e-1, 3e-1, 1.0)
STEPS, BATCH, SEEDS = 100, 16, 5
FRENCH_STEPS, FRENCH_SEEDS = 300, 3

Task = Callable[[LanguageModel, int, str, int], list[Example]]  # of a seed, a split and a number of examples


@dataclass(frozen=True)
class Way:
    """A way of fine-tuning.

    method: the method of `train.peft`, or None to train the model's own weights.
    rates: the learning rates to try.
    prepare: a function applied to the model before the method is attached, or None.
    also: names of the model's weights that are trained in addition to the method's. Without a method, the
        only weights that are trained; if `also` is empty, all are.
    frozen: names of weights that are not trained.
    """

    name: str
    method: Method | None
    rates: tuple[float, ...]
    prepare: Callable[[nn.Module], nn.Module] | None = None
    also: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()


WAYS = (
    Way("full", None, RATES["full"]),
    *(
        Way(f"LoRA, rank {rank}", LoRA(rank, 2 * rank, ALL_MATRICES), RATES["LoRA"])
        for rank in (1, 2, 4, 8, 16)
    ),
    Way("adapters, width 16", Bottleneck(16), RATES["adapters"]),
    Way("soft prompt, 16 tokens", SoftPrompt(16), PROMPT_RATES),
    Way("prefix, 16 tokens", Prefix(16), PROMPT_RATES),
    Way("QLoRA, rank 8", LoRA(8, 16, ALL_MATRICES), RATES["LoRA"], partial(quantize_linears, format=NF4())),
)
BY_NAME = {way.name: way for way in WAYS}
FORGETTING = {  # the rates at which it is measured, with FORGETTING_SEEDS seeds
    "full": (3e-4, 6e-4, 1e-3, 3e-3),
    "LoRA, rank 1": (3e-3, 1e-2, 3e-2),
    "LoRA, rank 8": (1e-3, 3e-3, 1e-2),
    "adapters, width 16": (3e-3, 1e-2, 3e-2),
    "prefix, 16 tokens": (3e-2, 1e-1, 3e-1),
}
FORGETTING_SEEDS = 3
ENGLISH_NORM = 1.7  # the mean norm of the embedding rows that English uses


def only_french(lm: LanguageModel) -> list[int]:
    """Return the tokens that the lessons in French use, and English stories don't."""
    pairs = french(lm, 1, "train", 4000)
    english = {token for prompt, _ in pairs for token in prompt}
    english |= {token for example in tell_who(lm, 1, "train", 4000) for text in example for token in text}
    return sorted({token for _, answer in pairs for token in answer} - english)


def tell_apart(model: nn.Module) -> nn.Module:
    """Give the rows of French tokens random directions, and the norm that English ones have, in place."""
    table, rows = model.embedding.weight.data, only_french(load_world())
    random = torch.randn(len(rows), table.shape[1], generator=torch.Generator().manual_seed(0))
    table[rows] = ENGLISH_NORM * nn.functional.normalize(random, dim=1)
    return model


FRENCH_WAYS = (
    *(BY_NAME[name] for name in ("full", "LoRA, rank 1", "LoRA, rank 8", "soft prompt, 16 tokens")),
    Way("LoRA, rank 8, and table", LoRA(8, 16, ALL_MATRICES), (1e-3, 3e-3), also=("embedding.weight",)),
    Way("table alone", None, (1e-3, 3e-3), also=("embedding.weight",)),
    Way("all but the table", None, (1e-3, 3e-3), frozen=("embedding.weight",)),
    Way("LoRA, rank 8, rows apart", LoRA(8, 16, ALL_MATRICES), (3e-3, 1e-2), prepare=tell_apart),
)


def who_was_what(lm: LanguageModel, story: Story) -> Example:
    """Return ids for the first task: (the story and an answer mark, "the thirsty tiger" and the end mark)."""
    answer = f"the {story.plot.reason} {story.plot.referent}"
    texts = (story.text + ANSWER, answer + END)
    return tuple(lm.tokenizer.encode(text, allow_special=True) for text in texts)


def tell_who(lm: LanguageModel, seed: int, split: str, n: int) -> list[Example]:
    """Return n examples of the task "who was what", from stories of one sentence."""
    return [who_was_what(lm, story) for story in islice(stories(seed, split, sentences=1), n)]


def french(lm: LanguageModel, seed: int, split: str, n: int) -> list[Example]:
    """Return n examples of the task "French", from stories of one sentence."""
    pairs = islice(translations(seed, split), n)
    texts = ((pair.prompt, pair.completion + END) for pair in pairs)
    return [tuple(lm.tokenizer.encode(text, allow_special=True) for text in pair) for pair in texts]


def plain_stories(lm: LanguageModel, n: int) -> list[Example]:
    """Return n held-out stories as examples, in which all tokens but the first count.

    Their loss shows how much fine-tuning costs of what the model could do before.
    """
    texts = (story.text for story in islice(stories(4, "held_out", sentences=2), n))
    return [(ids[:1], ids[1:]) for ids in map(lm.tokenizer.encode, texts)]


def judge(model: nn.Module, examples: Sequence[Example], prompt: Sequence[int] = ()) -> dict[str, float]:
    """Score a model on examples.

    loss: nats per token of the answers.
    exact: the share of answers that greedy decoding writes exactly.
    prompt: ids of virtual tokens that are put before every question.
    """
    pairs = [([*prompt, *question], answer) for question, answer in examples]
    forced = teacher_forced(model, pairs)
    exact = accuracy([bool(each.is_greedy.all()) for each in forced]).value
    return {"loss": -torch.cat([each.log_probs for each in forced]).mean().item(), "exact": exact}


def tune(
    lm: LanguageModel, way: Way, examples: Sequence[Example], rate: float, seed: int, steps: int = STEPS
) -> tuple[nn.Module, list[int], dict[str, float]]:
    """Return a tuned copy of the model, the virtual tokens that belong before its prompts, and the costs."""
    model, prompt = prepare_model(lm.model, way, seed), []
    if isinstance(way.method, SoftPrompt):
        prompt = way.method.ids(model)
    config = TrainConfig(steps=steps, learning_rate=rate, warmup=10, weight_decay=0.0)
    batches = in_front(prompt, Examples(examples, BATCH, answer_only, seed))
    start = perf_counter()
    train(model, batches, config, progress=False)
    seconds = (perf_counter() - start) / steps
    count = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return model, prompt, {"trained": count, "seconds a step": round(seconds, 4)}


def prepare_model(base: nn.Module, way: Way, seed: int) -> nn.Module:
    """Return a copy of a model in which only the weights to train need gradients."""
    model = copy.deepcopy(base)
    if way.prepare is not None:
        way.prepare(model)
    if way.method is None:
        model.requires_grad_(not way.also)
    else:
        attach(model, way.method, seed)
    for name in way.also:
        model.get_parameter(name).requires_grad_(True)
    for name in way.frozen:
        model.get_parameter(name).requires_grad_(False)
    return model


def compare(lm: LanguageModel, task: Task, ways: Sequence[Way], steps: int, seeds: int) -> list[dict]:
    """Return a row for each way: the loss at each rate, and the scores of every seed at the best rate."""
    examples = task(lm, 1, "train", 4000)
    choosing, held_out = task(lm, 3, "held_out", 300), task(lm, 2, "held_out", 300)
    old, rows = plain_stories(lm, 200), []
    for way in ways:
        tried = {}
        for rate in way.rates:
            model, prompt, _ = tune(lm, way, examples, rate, seed=100, steps=steps)
            tried[rate] = round(judge(model, choosing, prompt)["loss"], 4)
        best = min(tried, key=tried.get)
        runs = [tune(lm, way, examples, best, seed, steps) for seed in range(seeds)]
        scores = [judge(model, held_out, prompt) for model, prompt, _ in runs]
        row = {"way": way.name, "rates tried": tried, "rate": best, "trained": runs[0][2]["trained"]}
        row |= {name: [round(score[name], 4) for score in scores] for name in scores[0]}
        row["loss on stories"] = [round(judge(m, old, p)["loss"], 4) for m, p, _ in runs]
        rows.append(row)
        print(row["way"], best, row["exact"], row["loss on stories"], flush=True)
    return rows


def forgetting(lm: LanguageModel) -> list[dict]:
    """Return the loss on the task "who was what" and that on stories, of some ways at several rates."""
    examples, held_out = tell_who(lm, 1, "train", 4000), tell_who(lm, 2, "held_out", 300)
    old, rows = plain_stories(lm, 200), []
    for name, rates in FORGETTING.items():
        for rate in rates:
            runs = [tune(lm, BY_NAME[name], examples, rate, seed) for seed in range(FORGETTING_SEEDS)]
            learned, kept = (
                [round(judge(model, texts, prompt)["loss"], 4) for model, prompt, _ in runs]
                for texts in (held_out, old)
            )
            rows.append({"way": name, "rate": rate, "loss": learned, "loss on stories": kept})
            print(rows[-1], flush=True)
    return rows


def main(path: Path) -> None:
    torch.set_num_threads(1)
    lm = load_world()
    result = {
        "about": "made by python -m course_lib.course.lessons.parameter_efficient_fine_tuning.experiment",
        "before": {"loss on stories": round(judge(lm.model, plain_stories(lm, 200))["loss"], 4)},
        "settings": {"steps": STEPS, "batch": BATCH, "French steps": FRENCH_STEPS, "warmup": 10},
        "who was what": compare(lm, tell_who, WAYS, STEPS, SEEDS),
        "forgetting": forgetting(lm),
        "French": compare(lm, french, FRENCH_WAYS, FRENCH_STEPS, FRENCH_SEEDS),
    }
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path("assets/peft_comparison.json"))
