"""Reading GGUF, the one-file format of llama.cpp: settings, vocabulary, chat template and weights in few bits.

The `gguf` package finds what is where in the file. What is done here: the weights' blocks of 4 and 8 bits become
numbers, or are kept as they are (`quantize.blocks`), and the names and layouts become the course's, as the family's row says
(`family`).

Not handled: vocabularies other than byte-level BPE, and tensor types other than those
listed in `BLOCKS` and `NUMBERS`.
"""

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

from course_lib.families.family import FAMILIES, Family
from course_lib.model import Decoder, LanguageModel, ModelConfig
from course_lib.model.exchange import exchange
from course_lib.quantize import Q4_0, Q4_1, Q8_0, BlockWeight, QuantizedLinear
from course_lib.text import ChatTemplate, Tokenizer

SPECIAL = gguf.TokenType.CONTROL


def read_gguf(
    path: str | PathLike,
    dtype: torch.dtype = torch.float32,
    quantized: bool = False,
    families: Mapping[str, Family] = FAMILIES,
) -> LanguageModel:
    """Read a model of one of the families. quantized: the linear layers keep the file's blocks (`QuantizedLinear`).

    Raises FileNotFoundError, or ValueError that says what is wrong with the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return _read(path, dtype, quantized, families)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # whatever a damaged or foreign file leads to
        raise ValueError(f"{path} can't be read: {error}. If it may be damaged, get it again") from error


def _read(path: Path, dtype: torch.dtype, quantized: bool, families: Mapping[str, Family]) -> LanguageModel:
    reader = Reader(path)
    fields = _Fields((name, field.contents()) for name, field in reader.fields.items())
    architecture, family = _family(fields, families)
    config, tokenizer = _config(fields, reader, architecture, family), _tokenizer(fields, family)
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(f"it has {tokenizer.vocab_size} tokens for a vocabulary of {config.vocab_size}")
    template = fields.get("tokenizer.chat_template")
    return LanguageModel(
        name=fields.get("general.name", path.stem),
        model=_decoder(reader, config, family, dtype, quantized),
        tokenizer=tokenizer,
        chat=ChatTemplate(template, tokenizer) if template else None,
    )


class _Fields(dict):
    """The file's settings, name → value."""

    def __missing__(self, name: str):
        raise ValueError(f"it lacks {name}, which a model's file has")


class Reader(gguf.GGUFReader):
    """The package's reader, which takes each of a vocabulary's 150,000 numbers through NumPy's slow memory-mapped class:
    on plain arrays it does the same in a fifth of the time. And it stops at the end of the file, where the package's
    goes on."""

    def _get(self, offset, dtype, count=1, override_order=None):
        if isinstance(self.data, np.memmap):
            self.data = np.asarray(self.data)
        found = super()._get(offset, dtype, count, override_order)
        if len(found) < count:
            raise ValueError(f"the file ends before byte {offset}, where there should be more")
        return found


def _family(fields: Mapping, families: Mapping[str, Family]) -> tuple[str, Family]:
    architecture = fields.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in families:
        raise ValueError(f"it holds a {architecture!r} model; handled are {', '.join(families)}")
    return architecture, families[architecture]


def _config(fields: Mapping, reader: gguf.GGUFReader, architecture: str, family: Family) -> ModelConfig:
    if fields.get(f"{architecture}.rope.scaling.type", "none") != "none":
        raise ValueError("it scales its positions, which is not handled")
    layers = {tensor.name.split(".")[1] for tensor in reader.tensors if tensor.name.startswith("blk.")}
    if len(layers) != (said := fields[f"{architecture}.block_count"]):
        raise ValueError(f"it has weights for {len(layers)} layers and says {said}")
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    tokens = fields["tokenizer.ggml.tokens"]
    return family.config(architecture, fields, tie_embeddings=tied, vocab_size=len(tokens))


def _tokenizer(fields: Mapping, family: Family) -> Tokenizer:
    model, pre, patterns = (
        fields.get("tokenizer.ggml.model"),
        fields.get("tokenizer.ggml.pre"),
        family.pre_tokenizers,
    )
    if model != "gpt2" or pre not in patterns:
        raise ValueError(
            f"it has a {model!r} vocabulary with pre-tokenizer {pre!r}; handled are {list(patterns)}"
        )
    kinds = fields["tokenizer.ggml.token_type"]
    if len(kinds) != len(fields["tokenizer.ggml.tokens"]):
        raise ValueError(
            f"it has {len(fields['tokenizer.ggml.tokens'])} tokens and says what {len(kinds)} of them are"
        )
    return Tokenizer.from_gpt2_strings(
        fields["tokenizer.ggml.tokens"],
        fields["tokenizer.ggml.merges"],
        special_ids=[i for i, kind in enumerate(kinds) if kind == SPECIAL],
        pattern=patterns[pre],
        unknown=fields.get("tokenizer.ggml.unknown_token_id"),
    )


def _decoder(
    reader: gguf.GGUFReader, config: ModelConfig, family: Family, dtype: torch.dtype, quantized: bool
) -> Decoder:
    with torch.device("meta"):  # no memory, no random numbers: the file's weights take every place
        model = Decoder(config)
    weights = {}
    for tensor in reader.tensors:
        if quantized and tensor.name.startswith("blk.") and tensor.tensor_type in BLOCKS:
            _keep(model, tensor, _blocks(tensor, config, family), family)
        else:
            weights[_name(tensor.name, family)] = _weight(tensor, config, family).to(dtype)
    if config.tie_embeddings:
        weights["head.weight"] = weights["embedding.weight"]
    weights |= {name: value for name, value in model.state_dict().items() if not value.is_meta}
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights don't fit the settings: {error}") from error
    model.tie()
    return model.eval().requires_grad_(False)


def _keep(model: Decoder, tensor: gguf.ReaderTensor, stored: BlockWeight, family: Family) -> None:
    """Put a tensor's blocks where its weight belongs."""
    name = _name(tensor.name, family)
    _require_finite(tensor, stored.weight())
    if model.get_parameter(name).shape != stored.shape:
        raise ValueError(f"{name} has the shape {tuple(stored.shape)}, which doesn't fit the settings")
    exchange(model, {name.removesuffix(".weight"): QuantizedLinear(stored)})


def _name(name: str, family: Family) -> str:
    """ "blk.13.attn_q.weight" → "blocks.13.attention.query.weight"."""
    parts = name.split(".")
    try:
        if parts[0] == "blk":
            return ".".join(["blocks", parts[1], family.in_a_block[parts[2]], parts[3]])
        return ".".join([family.outside[parts[0]], parts[1]])
    except (KeyError, IndexError):
        raise ValueError(f"it holds a tensor {name!r}, which this decoder has no place for") from None


def _weight(tensor: gguf.ReaderTensor, config: ModelConfig, family: Family) -> Tensor:
    if tensor.tensor_type in BLOCKS:
        weight = _blocks(tensor, config, family).weight()
    elif tensor.tensor_type in NUMBERS:
        weight = NUMBERS[tensor.tensor_type](_raw(tensor)).view(tensor.shape.tolist()[::-1])
        weight = _in_our_order(tensor, weight, config, family)
    else:
        raise ValueError(f"{tensor.name} is stored as {tensor.tensor_type.name}, which is not handled")
    _require_finite(tensor, weight)
    return weight


def _require_finite(tensor: gguf.ReaderTensor, weight: Tensor) -> None:
    if not weight.sum().isfinite():
        raise ValueError(f"{tensor.name} holds numbers that are not finite")


def _blocks(tensor: gguf.ReaderTensor, config: ModelConfig, family: Family) -> BlockWeight:
    """A matrix in blocks, as the file has it; only whole rows change places."""
    rows = _raw(tensor).view(int(tensor.shape[1]), -1)
    return BlockWeight(BLOCKS[tensor.tensor_type], _in_our_order(tensor, rows, config, family))


def _raw(tensor: gguf.ReaderTensor) -> Tensor:
    return torch.from_numpy(np.array(tensor.data)).view(torch.uint8)


def _in_our_order(tensor: gguf.ReaderTensor, rows: Tensor, config: ModelConfig, family: Family) -> Tensor:
    rotary = family.pairs_of_rows and (".attn_q." in tensor.name or ".attn_k." in tensor.name)
    return _halves_from_neighbours(rows, config.d_head) if rotary else rows


def _halves_from_neighbours(weight: Tensor, d_head: int) -> Tensor:
    """Undo llama.cpp's order of rows, which puts the two coordinates of a rotary pair side by side; `model.positions` wants
    all the first ones, then all the second."""
    return weight.unflatten(0, (-1, d_head // 2, 2)).transpose(1, 2).reshape(weight.shape)


BLOCKS = {Kind.Q8_0: Q8_0, Kind.Q4_0: Q4_0, Kind.Q4_1: Q4_1}
NUMBERS: dict[Kind, Callable[[Tensor], Tensor]] = {
    Kind.F32: lambda raw: raw.view(torch.float32),
    Kind.F16: lambda raw: raw.view(torch.float16).float(),
}
