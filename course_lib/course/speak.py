"""Let a decoder of the learner's own answer a question: what `python my_model.py "Who was thirsty?"` does.

Nothing here imports the library's model: what computes the answer is the learner's class, with SmolLM2's
weights in it. It must take `Decoder(config)` and `decoder(tokens)`, (batch, time) → logits (batch, time,
vocab_size), and have the library's names of weights (`blocks.0.attention.query.weight`).

Not handled: a cache (each token reads the whole text again), sampling, and files other than SmolLM2's.
"""

import sys
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor, nn

from course_lib import find_smollm2
from course_lib.gguf_names import BLOCK_TENSORS, TENSORS
from course_lib.text import SMOLLM2, ChatTemplate, Tokenizer

NAMES = TENSORS | BLOCK_TENSORS | {"blk": "blocks"}  # blk.0.attn_q → blocks.0.attention.query


def speak(decoder_class: type[nn.Module], arguments: list[str] | None = None, n_tokens: int = 60) -> None:
    """Print the model's answer to the question on the command line, token by token, always the likeliest."""
    question = " ".join(sys.argv[1:] if arguments is None else arguments) or "Who are you?"
    reader = gguf.GGUFReader(find_smollm2())
    config, chat = read_config(reader), read_chat(reader)
    model = decoder_class(config)
    try:
        model.load_state_dict(read_weights(reader, config.d_head))
    except RuntimeError as error:  # which names the weights
        sys.exit(f"Your {type(model).__name__} can't take the weights of SmolLM2. {error}")
    ids = chat.encode(question)
    end = chat.tokenizer.special["<|im_end|>"]
    for piece in chat.tokenizer.decode_stream(_next_tokens(model.eval(), ids, end, n_tokens)):
        print(piece, end="", flush=True)
    print()


@torch.no_grad()
def _next_tokens(model: nn.Module, ids: list[int], end: int, n_tokens: int):
    """Yield the likeliest next token, and the next after that, until the turn ends."""
    for _ in range(n_tokens):
        token = int(model(torch.tensor([ids]))[0, -1].argmax())
        if token == end:
            return
        yield token
        ids = [*ids, token]


def read_config(reader: gguf.GGUFReader) -> SimpleNamespace:
    """Return the sizes of the model, under the names of `course_lib.model.ModelConfig`."""
    d_model, n_heads = _field(reader, "llama.embedding_length"), _field(reader, "llama.attention.head_count")
    return SimpleNamespace(
        vocab_size=_field(reader, "llama.vocab_size"),
        d_model=d_model,
        n_layers=_field(reader, "llama.block_count"),
        n_heads=n_heads,
        n_kv_heads=_field(reader, "llama.attention.head_count_kv"),
        d_head=d_model // n_heads,
        d_ff=_field(reader, "llama.feed_forward_length"),
        context=_field(reader, "llama.context_length"),
        rope_base=_field(reader, "llama.rope.freq_base"),
        norm_eps=_field(reader, "llama.attention.layer_norm_rms_epsilon"),
    )


def read_weights(reader: gguf.GGUFReader, d_head: int) -> dict[str, Tensor]:
    """Return all weights in 32 bits. The head is the embedding table."""
    weights = {}
    for tensor in reader.tensors:
        name = ".".join(NAMES.get(part, part) for part in tensor.name.split("."))
        weight = torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type)))
        if ".attn_q." in tensor.name or ".attn_k." in tensor.name:  # llama.cpp puts rotary pairs side by side
            weight = weight.unflatten(0, (-1, d_head // 2, 2)).transpose(1, 2).reshape(weight.shape)
        weights[name] = weight
    return weights | {"head.weight": weights["embedding.weight"]}


def read_chat(reader: gguf.GGUFReader) -> ChatTemplate:
    """Return the chat template, with its tokenizer."""
    kinds = _field(reader, "tokenizer.ggml.token_type")
    tokenizer = Tokenizer.from_gpt2_strings(
        _field(reader, "tokenizer.ggml.tokens"),
        _field(reader, "tokenizer.ggml.merges"),
        special_ids=[i for i, kind in enumerate(kinds) if kind == gguf.TokenType.CONTROL],
        pattern=SMOLLM2,
        unknown=_field(reader, "tokenizer.ggml.unknown_token_id"),
    )
    return ChatTemplate(_field(reader, "tokenizer.chat_template"), tokenizer)


def _field(reader: gguf.GGUFReader, name: str) -> Any:
    return reader.fields[name].contents()
