"""The train and held-out splits: a hash of what an item says decides which split it belongs to."""

import hashlib

SPLITS = ("train", "held_out")
# One key in ten is held out. The name is part of the hash; with this one the thirsty tiger in its tree is
# held out.
HELD_OUT = 10
SPLIT_NAME = "animal world"


def side(key: str) -> str:
    """Return the split of an item with this key. It is the same in every run and for every seed.

    >>> side("tiger jumped out of tree thirsty")
    'held_out'
    """
    digest = hashlib.sha256(f"{SPLIT_NAME} {key}".encode()).digest()
    return "held_out" if int.from_bytes(digest[:8]) % HELD_OUT == 0 else "train"


def check_split(split: str) -> None:
    """Raise ValueError unless the world has this split."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
