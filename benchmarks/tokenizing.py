"""Tokenizing a megabyte of English: the course's tokenizer, `tokenizers`, and the method of minbpe."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers, trainers

from benchmarks.document import SIZE, english
from benchmarks.measure import peak_memory, profile, race, seconds
from benchmarks.report import Row, comparison, memory
from course_lib.families import load_smollm2
from course_lib.text import Tokenizer, split
from tests.references import gpt2_pre_tokenizer, merge_everywhere, smollm2_tokenizer

MERGES = 4000
ENCODE, LEARN = "encode 1 MB", f"learn {MERGES} merges from 1 MB"

smollm2 = cache(lambda: load_smollm2().tokenizer)


def fresh() -> Tokenizer:
    """Return SmolLM2's tokenizer with an empty cache of words."""
    t = smollm2()
    return Tokenizer(t.tokens, t.merges, t.pattern, t.special, t.unknown)


def fresh_theirs() -> FastTokenizer:
    """Return the same tokenizer of `tokenizers` with an empty cache of words."""
    smollm2_tokenizer().model._clear_cache()
    return smollm2_tokenizer()


def encode_minbpe(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the token ids by the method of Karpathy's minbpe.

    For every occurrence of each piece, it merges the pair that was learned earliest, until no pair is left.
    """
    rank = {pair: i for i, pair in enumerate(tokenizer.merges)}
    byte_ids = {token[0]: i for i, token in enumerate(tokenizer.tokens) if len(token) == 1}
    ids = []
    for piece in split(text, tokenizer.pattern):
        word = tuple(byte_ids.get(byte, tokenizer.unknown) for byte in piece.encode())
        while len(word) > 1:
            pair = min(set(pairwise(word)), key=lambda p: rank.get(p, len(rank)))
            if pair not in rank:
                break
            word = merge_everywhere(word, pair, tokenizer.merges[pair])
        ids += word
    return ids


def train_ours(text: str) -> Tokenizer:
    return Tokenizer.train(text, vocab_size=256 + MERGES)


def train_theirs(text: str) -> FastTokenizer:
    tokenizer = FastTokenizer(models.BPE())
    tokenizer.pre_tokenizer = gpt2_pre_tokenizer()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256 + MERGES, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def load_and_encode(load: Callable, path: Path, text: str) -> None:
    load(str(path)).encode(text)


def measure(rounds: int) -> Iterator[Row]:
    text, warm = english(), {"ours": fresh(), "tokenizers": smollm2_tokenizer()}
    if (
        not warm["ours"].encode(text)
        == warm["tokenizers"].encode(text).ids
        == encode_minbpe(warm["ours"], text)
    ):
        raise SystemExit("the tokenizers disagree about the document: there is nothing to compare")
    times = race(
        {
            "cold, ours": lambda: seconds(fresh().encode, text),
            "cold, tokenizers": lambda: seconds(fresh_theirs().encode, text),
            "warm, ours": lambda: seconds(warm["ours"].encode, text),
            "warm, tokenizers": lambda: seconds(warm["tokenizers"].encode, text),
            "minbpe": lambda: seconds(encode_minbpe, warm["ours"], text),
            "train, ours": lambda: seconds(train_ours, text),
            "train, tokenizers": lambda: seconds(train_theirs, text),
        },
        rounds,
    )

    def encoding(state: str, rival: str, theirs: str, goal: float) -> Row:
        tokenizer = fresh() if state == "cold" else warm["ours"]
        why = partial(profile, tokenizer.encode, text)
        return comparison(
            f"{ENCODE}, {state}", times[f"{state}, ours"], rival, times[theirs], goal, why, SIZE / 1e6, "MB/s"
        )

    yield encoding("cold", "tokenizers", "cold, tokenizers", 1.0)
    yield encoding("warm", "tokenizers", "warm, tokenizers", 1.0)
    yield encoding("cold", "minbpe's way", "minbpe", 5.0)
    why = partial(profile, train_ours, text)
    yield comparison(LEARN, times["train, ours"], "tokenizers", times["train, tokenizers"], 0.5, why)
    with TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("ours.json", "theirs.json")]
        for tokenizer, path in zip(warm.values(), paths, strict=True):
            tokenizer.save(str(path))
        ours = peak_memory(load_and_encode, Tokenizer.load, paths[0], text)
        theirs = peak_memory(load_and_encode, FastTokenizer.from_file, paths[1], text)
    yield from memory(f"load the tokenizer, {ENCODE}", ours, "tokenizers", theirs)
    yield from memory(LEARN, peak_memory(train_ours, text), "tokenizers", peak_memory(train_theirs, text))
