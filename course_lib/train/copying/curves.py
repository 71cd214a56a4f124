"""Learning curves of the same training in several ways, each with several seeds: the runs, and their file."""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

from course_lib.whole_files import replacing

Curve = list[dict[str, float]]  # the number of steps, and the scores after them
WORKERS = 2


def write(
    path: Path, made_by: str, run: Callable[[str, int], Curve], ways: Iterable[str], seeds: Iterable[int]
) -> None:
    """Run each way with each seed, WORKERS at a time, and write the curves by their way."""
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:  # (a fork would hang in its threads)
        waiting = {(way, seed): pool.submit(run, way, seed) for seed, way in product(seeds, ways)}
        curves = {way: [waiting[way, seed].result() for seed in seeds] for way in ways}
    with replacing(path) as file:
        file.write_text(json.dumps({"made_by": made_by, "curves": curves}) + "\n", encoding="utf-8")
