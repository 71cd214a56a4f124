"""The speedrun: trains two recipes by the clock, keeps a log of all runs, and says whether one is better.

Both have the same seconds of the same machine, one after the other, with the same seed; which one is first
alternates. A verdict needs six pairs of runs (`evaluate.paired_test`). Its interval doesn't cover the choice
of held-out texts, on which all models are scored. And who tries twenty ideas will find one that is better by
chance: run the best one again under a new name, which gets new seeds.
"""

import argparse
import hashlib
import inspect
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from reprlib import repr as short
from statistics import mean

import torch
from torch import nn

from course_lib import asset
from course_lib.evaluate import Estimate, paired_test
from course_lib.train.checks import is_number
from course_lib.train.minute import contest
from course_lib.train.minute.clock import Clock
from course_lib.train.minute.recipe import held_out_texts, score, training_text
from course_lib.whole_files import replacing

SECONDS, WARM_UP = 60.0, 2.0  # the run's, and those before it in which PyTorch loads what it needs
ENOUGH = 6  # pairs of runs, with which chance can be excluded at the usual 0.05
BITS = "bits a byte"
SCORES = ("steps", BITS, "answers")  # of each run
KEYS = {"name": str, "code": str, "seconds": float, "seed": int, "yours": dict, "own": dict}  # of each pair
Train = Callable[[Clock, int], nn.Module]


def main(train: Train, own: Train, arguments: Sequence[str] | None = None) -> None:
    """Read the command line, train by both recipes, and print the table and the verdict."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.train.speedrun")
    parser.add_argument("--name", default="mine", help="what the table calls this version of `train`")
    parser.add_argument("--runs", type=int, default=1, help="pairs of runs, each with another seed")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="fewer to see that it runs at all")
    parser.add_argument("--log", type=Path, default=Path("speedrun.json"), help="where all runs are kept")
    options = parser.parse_args(arguments)
    code = hashlib.sha256(Path(inspect.getsourcefile(train)).read_bytes()).hexdigest()[:16]
    try:
        log = read_log(options.log)
        check_options(options, [pair for pair in log if pair["name"] == options.name], code)
    except ValueError as error:
        parser.error(str(error))
    for _ in range(options.runs):
        pair = {"name": options.name, "code": code, "seconds": options.seconds, "seed": len(log)}
        log.append(pair | run_pair(train, own, options.seconds, seed=len(log)))
        with replacing(options.log) as file:
            file.write_text(json.dumps(log, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    report([pair for pair in log if pair["seconds"] == options.seconds], options.name)


def check_options(options: argparse.Namespace, earlier: Sequence[dict], code: str) -> None:
    """Raise ValueError for numbers that no run has, and for a name that stands for other code."""
    if options.runs < 1 or not 0 < options.seconds < math.inf:
        raise ValueError("--runs must be 1 or more, and --seconds more than 0")
    if not options.log.resolve().parent.is_dir():
        raise ValueError(f"there is no folder {options.log.resolve().parent} for the --log")
    if any(pair["code"] != code for pair in earlier):
        raise ValueError(
            f"the file was changed since it was run as {options.name!r}: give this version another --name"
        )


def read_log(path: Path) -> list[dict]:
    """Return the pairs of runs in a log; none if there is no file. Raises ValueError for another file."""
    try:
        log = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        known = isinstance(log, list) and all(map(is_pair, log))
    except (ValueError, OSError):
        known = False
    if not known:
        raise ValueError(f"{path} is no log of speedruns: move it away, or name another with --log")
    return log


def is_pair(entry: object) -> bool:
    """Return whether an entry of a log is a pair of runs, with finite scores."""
    if not isinstance(entry, dict) or {key: type(value) for key, value in entry.items()} != KEYS:
        return False
    runs = entry["yours"], entry["own"]
    return all(run.keys() == set(SCORES) and all(map(is_finite, run.values())) for run in runs)


def is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(value)


def run_pair(train: Train, own: Train, seconds: float, seed: int) -> dict[str, dict[str, float]]:
    """Train by both recipes with one seed, in turn first and second, and return their scores."""
    print("Making the texts …", flush=True)
    training_text(), held_out_texts()
    order = {"yours": train, "own": own} if seed % 2 else {"own": own, "yours": train}
    scores, threads = {}, torch.get_num_threads()
    for who, recipe in order.items():
        label = {"yours": "your recipe", "own": "the course's recipe"}[who]
        print(f"{seconds:g} seconds of {label}, seed {seed}: ", end="", flush=True)
        torch.set_num_threads(threads)  # whatever the other recipe chose
        scores[who] = trained(recipe, seconds, seed)
        print(f"{scores[who]['steps']} steps, {scores[who][BITS]:.4f} bits a byte", flush=True)
    return scores


def trained(train: Train, seconds: float, seed: int) -> dict[str, float]:
    """Train by the clock and return the scores. The recipe has WARM_UP seconds before.

    Raises TimeoutError for a run that took too long, TypeError for one that returned no model, and ValueError
    for a model that can't be scored.
    """
    for clock in map(Clock, (WARM_UP, seconds)):  # (each starts when it is made, as its turn comes)
        model = train(clock, seed)
        clock.check()
        check_model(model)
    scores = score(model) | {"steps": clock.asked - 1}
    if not all(map(math.isfinite, scores.values())):
        raise ValueError(f"the scores aren't finite: {scores}. Has the training diverged?")
    return scores


@torch.no_grad()
def check_model(model: nn.Module) -> None:
    """Raise TypeError for what is no decoder, ValueError for one that reads the tokens it is to predict."""
    if not (isinstance(model, nn.Module) and hasattr(model, "config") and hasattr(model, "embedding")):
        raise TypeError(f"`train` must return the model, a Decoder or like one, not {short(model)}")
    tokens = held_out_texts()[0][:32].repeat(2, 1)  # (2, 32)
    tokens[1, 16:] = tokens[1, 16:].flip(0)
    first, second = model.eval()(tokens)[:, :16]  # (16, vocab_size) each: their texts differ after these
    if not torch.allclose(first, second, atol=1e-3):
        raise ValueError("your model reads the tokens that it is to predict: its attention must be causal")


def report(pairs: Sequence[dict], name: str) -> None:
    """Print the table of all pairs of this length, and the verdict on a name."""
    print(f"\nAll that was tried in {pairs[0]['seconds']:g} seconds. Fewer bits a byte are better.")
    print(table(pairs))
    if pairs[0]["seconds"] == SECONDS:
        print(verdict([pair for pair in pairs if pair["name"] == name]))
    else:
        print(f"There is no verdict on runs of other than {SECONDS:g} seconds.")


def gains(pairs: Sequence[dict]) -> list[float]:
    """Return by how many bits a byte yours is better than the course's, in each pair."""
    return [pair["own"][BITS] - pair["yours"][BITS] for pair in pairs]


def interval(pairs: Sequence[dict]) -> Estimate:
    """Return the mean gain of ENOUGH pairs or more, with its 95% interval."""
    return paired_test(*([pair[who][BITS] for pair in pairs] for who in ("own", "yours"))).difference


def between_seeds() -> float:
    """Return by how much seeds alone changed a recipe of the same model in the contest, in bits, at most."""
    entries = json.loads(asset("minute.json").read_text(encoding="utf-8"))["entries"]
    recipes = [contest.scores(row) for row in entries.values() if contest.same_model(row)]
    return max(max(bits) - min(bits) for bits in recipes)


def verdict(pairs: Sequence[dict]) -> str:
    """Return in words whether yours is better, worse, or not to be told from the course's recipe."""
    if len(pairs) < ENOUGH:
        gained, lacking = mean(gains(pairs)), ENOUGH - len(pairs)
        return (
            f"Too few runs for a verdict: {gained:+.4f} bits a byte gained so far. Seeds alone made up "
            f"to {between_seeds():.4f} of difference in the contest. Add --runs {lacking}."
        )
    by = interval(pairs)
    found = "better" if by.low > 0 else "worse" if by.high < 0 else "neither better nor worse"
    bounds = f"95% interval {by.low:+.4f} to {by.high:+.4f}, {by.n} pairs of runs"
    return f"Yours is {found}: {by.value:+.4f} bits a byte gained, {bounds}."


def table(pairs: Sequence[dict]) -> str:
    """Return all that was tried as a table, the largest gain first."""
    by_name = defaultdict(list)
    for pair in pairs:
        by_name[pair["name"]].append(pair)
    lines = ["| tried | pairs | steps | bits a byte | right answers | gain over the course's recipe |"]
    lines.append("|---" * 6 + "|")
    for name, tried in sorted(by_name.items(), key=lambda item: -mean(gains(item[1]))):
        steps, bits, right = (mean(pair["yours"][what] for pair in tried) for what in SCORES)
        gained = f"{mean(gains(tried)):+.4f}"
        if len(tried) >= ENOUGH:
            gained += f" ({interval(tried).low:+.4f} to {interval(tried).high:+.4f})"
        lines.append(f"| {name} | {len(tried)} | {steps:.0f} | {bits:.4f} | {right:.3f} | {gained} |")
    return "\n".join(lines)
