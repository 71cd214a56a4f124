"""The library behind the course, laid out in the order in which data flows.

    text/       bytes → tokens: byte-level BPE, pre-tokenizers, chat templates
    world/      the made-up world: stories, questions, sums, French, pictures, and what is true in them
    model/      tokens → logits: one decoder, read from one dataclass of dials; its cache; other parts in its parts' places
    quantize/   fewer bits: grids, the blocks in files, kernels that compute with them
    kernels/    the same operations for a GPU, in Triton, each beside its few lines of PyTorch
    families/   published models, read from their files into that decoder
    generate/   logits → text: sampling, and one loop that writes a text or many
    evaluate/   everything that scores: likelihood, perplexity, answers, repetition, intervals, a small harness
    train/      text → weights: batches, loss, optimizer, the loop, checkpoints, fine-tuning
    show/       pictures and widgets: compute → draw → explore
    course/     the learner's side: checks, hints, solutions, quizzes, progress; the scripts of long experiments

Imports point only downwards in this list's order: a room never knows one that comes after it.
"""

from pathlib import Path

__version__ = "0.1.0"


def asset(name: str) -> Path:
    """The path of a file in the project's assets folder. Raises FileNotFoundError when it isn't there."""
    path = Path(__file__).parents[1] / "assets" / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: is this a whole copy of the course?")
    return path
