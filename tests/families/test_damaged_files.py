"""Thousands of damaged files: each is read, or refused with a ValueError, in a few seconds and little memory.

They are read in another process, whose memory is limited. It says of each file that it begins and how it
ended, so that a crash or a hang names the file.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch

MEMORY = 1 << 30  # more than a reader of these files could need
SECONDS = 10  # a file takes milliseconds: a guard against hanging
ROOT = Path(__file__).parents[2]


# Reading, in the other process


class Hanging(BaseException):
    """Not an Exception, so that nothing catches it on the way."""


def stop(*_):
    raise Hanging


def gguf_files(folder):
    from families.mutations import damaged_gguf
    from families.test_families import Kind, tiny_model, write_gguf

    from course_lib.families import read_gguf

    bases = []
    for kind in (Kind.F32, Kind.Q8_0, Kind.Q4_1):
        write_gguf(folder / "base", tiny_model(), kind=kind)
        bases.append((folder / "base").read_bytes())

    def read(n):
        base = n // 2 % len(bases)
        path = folder / "file.gguf"
        path.write_bytes(damaged_gguf(bases[base], n))
        model = read_gguf(path, quantized=base > 0).model
        model(torch.arange(20)[None])
        return model.parameters()

    return read


def model_files(folder):
    from families.mutations import damaged_safetensors
    from references import tiny_decoder

    from course_lib.families import load_model, save_model

    bases = []
    for changes in ({}, {"n_experts": 4}):
        save_model(folder / "base", tiny_decoder(torch.float32, n_layers=2, **changes))
        bases.append((folder / "base").read_bytes())

    def read(n):
        (folder / "file").write_bytes(damaged_safetensors(bases[n // 2 % 2], n))
        model, _ = load_model(folder / "file")
        return model.state_dict().values()

    return read


def checkpoint_files(folder):
    from families.mutations import damaged_safetensors
    from references import random_tokens, tiny_decoder

    from course_lib.train import TrainConfig, Training, load_checkpoint, save_checkpoint

    def training():
        model = tiny_decoder(torch.float32, n_layers=1).requires_grad_(True)
        return Training(
            model, TrainConfig(steps=4), lambda model, batch: (model(batch).mean(), {"reward": 0.5})
        )

    saved, fresh = training(), training()
    for _ in range(3):
        saved.learn(random_tokens(saved.model))
    save_checkpoint(folder / "base", saved)
    base = (folder / "base").read_bytes()
    before = [weight.clone() for weight in fresh.model.parameters()]

    def read(n):
        (folder / "file").write_bytes(damaged_safetensors(base, n))
        try:
            other = training()
            load_checkpoint(folder / "file", other)
            with suppress(FloatingPointError):  # of weights so large that the loss isn't finite
                other.learn(random_tokens(other.model))
            return other.model.state_dict().values()
        except ValueError:
            assert all(map(torch.equal, before, other.model.parameters())) and not other.optimizer.state
            assert other.step == 0 and not other.metrics
            raise

    return read


def adapter_files(folder, peft):
    from families.mutations import damaged_json_file, damaged_safetensors
    from references import tiny_decoder

    from course_lib.train.peft import LoRA, attach, load_peft, save_peft

    model = tiny_decoder(torch.float32, n_layers=1)
    attached = attach(model, LoRA(2, 4.0, ["attention.query", "feed_forward.up"]))
    for weight in attached.weights.values():
        weight.data.normal_()
    attached.save(folder / "base")
    save_peft(folder, attached)
    files = {
        name: (folder / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")
    }
    base, before = (folder / "base").read_bytes(), {name: w.clone() for name, w in attached.weights.items()}
    attached.detach()
    other = attach(tiny_decoder(torch.float32, n_layers=1), attached.method)

    def read_peft(n):
        for name, content in files.items():
            (folder / name).write_bytes(content)
        name = list(files)[n // 2 % 2]
        damage = damaged_json_file if name.endswith(".json") else damaged_safetensors
        (folder / name).write_bytes(damage(files[name], n))
        loaded = load_peft(model, folder)
        loaded.detach()
        return loaded.weights.values()

    def read_own(n):
        (folder / "file").write_bytes(damaged_safetensors(base, n))
        with torch.no_grad():
            for name, weight in other.weights.items():
                weight.copy_(before[name])
        try:
            other.load(folder / "file")
        except ValueError:
            assert all(weight.equal(before[name]) for name, weight in other.weights.items())
            raise
        return other.weights.values()

    return read_peft if peft else read_own


READERS = {
    "gguf": gguf_files,
    "model": model_files,
    "checkpoint": checkpoint_files,
    "adapter": lambda folder: adapter_files(folder, peft=False),
    "peft": lambda folder: adapter_files(folder, peft=True),
}


def read_all(kind, count):
    """Read files 0 … count − 1, and say of each how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        read = READERS[kind](Path(folder))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        for n in range(count):
            print(f"{kind} {n}", end=": ", flush=True)
            signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)
            try:
                ended = outcome(read, n)
            except Hanging:
                ended = f"no end within {SECONDS} s"
            signal.setitimer(signal.ITIMER_REAL, 0)
            print(json.dumps(ended), flush=True)


def outcome(read, n):
    try:
        finite = all(weight.isfinite().all() for weight in read(n))
        return "read" if finite else "read, with weights that are not finite"
    except ValueError as error:
        said = str(error)
        internal = "allocat" in said or "INTERNAL" in said
        return f"{'internal error' if internal else 'refused'}: {said[:500]}"
    except Exception as error:  # noqa: BLE001 - whatever comes of it is judged
        return f"{type(error).__name__}: {str(error)[:500]}"


# Judging


def judge(counts):
    """Each is read or refused, and of each kind some are read: the damage isn't always plain to see."""
    paths = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    command = [sys.executable, __file__, json.dumps(counts)]
    out = subprocess.run(command, capture_output=True, text=True, env=os.environ | paths, check=False)
    found = [line.partition(": ") for line in out.stdout.splitlines()]
    ends = {file: json.loads(end) if end else "the process died" for file, _, end in found}
    wrong = {file: end for file, end in ends.items() if end != "read" and not end.startswith("refused")}
    assert not wrong and len(ends) == sum(counts.values()), f"{wrong}\n{out.stderr[-2_000:]}"
    for kind in counts:
        assert {end == "read" for file, end in ends.items() if file.startswith(kind)} == {True, False}


def test_damaged_files_are_read_or_refused():
    judge({"gguf": 100, "model": 25, "checkpoint": 25, "adapter": 25, "peft": 25})


@pytest.mark.slow
def test_two_thousand_damaged_gguf_files_are_read_or_refused():
    judge({"gguf": 2_000})


@pytest.mark.slow
def test_a_thousand_damaged_safetensors_files_are_read_or_refused():
    judge({"model": 300, "checkpoint": 300, "adapter": 200, "peft": 200})


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, stop)
    for kind, count in json.loads(sys.argv[1]).items():
        read_all(kind, count)
