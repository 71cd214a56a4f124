"""The train and held-out splits: a hash of what an item says decides which split it belongs to."""

import hashlib

from course_lib.arguments import short

SPLITS = ("train", "held_out")
ONE_IN = 10  # one key in ten is held out
SPLIT_NAME = "animal world"  # part of the hash; with this name the thirsty tiger in its tree is held out


def side(key: str) -> str:
    """Return the split of an item with this key: on which side it is, that of training or the held-out one.

    The split is the same in every run and for every seed.

    key: what decides the split. Items with equal keys are in one split. For stories it is `Plot.key`. Raises
        TypeError for a key that is no text.

    >>> side("tiger jumped out of tree thirsty")
    'held_out'
    """
    if not isinstance(key, str):
        raise TypeError(f"key must be a text, such as a plot's key, not {short(key)}")
    digest = hashlib.sha256(f"{SPLIT_NAME} {key}".encode(errors="surrogatepass")).digest()
    return "held_out" if int.from_bytes(digest[:8]) % ONE_IN == 0 else "train"


def check_split(split: str) -> None:
    """Raise ValueError unless the world has this split."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
