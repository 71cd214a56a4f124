"""Reading GGUF, the one-file format of llama.cpp: settings, vocabulary, chat template and quantized weights.

The `gguf` package locates everything in the file. This module dequantizes the weights, or keeps the
quantization blocks of 4 and 8 bits as they are (`quantize.blocks`), and translates names and layouts into the
course's, by the table of the model's family (`family`).

Not handled: vocabularies other than byte-level BPE; tensor types other than those in `BLOCK_FORMATS` and
`FLOAT_FORMATS`.
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

# Quantization blocks: groups of weights with a scale. The model's layers are called blocks too ("blk.0").
BLOCK_FORMATS = {Kind.Q8_0: Q8_0, Kind.Q4_0: Q4_0, Kind.Q4_1: Q4_1}
FLOAT_FORMATS: dict[Kind, Callable[[Tensor], Tensor]] = {
    Kind.F32: lambda raw: raw.view(torch.float32),
    Kind.F16: lambda raw: raw.view(torch.float16).float(),
}


def read_gguf(
    path: str | PathLike,
    dtype: torch.dtype = torch.float32,
    quantized: bool = False,
    families: Mapping[str, Family] = FAMILIES,
) -> LanguageModel:
    """Return the model in a GGUF file, with its tokenizer and chat template.

    dtype: the precision of the weights. quantized: whether the linear layers keep the file's
    quantization blocks (`QuantizedLinear`). families: the families that can be read, by the architecture's
    name in the file.

    Raises FileNotFoundError, or ValueError that says what is wrong with the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return _read_model(path, dtype, quantized, families)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # a damaged or foreign file can lead to any exception
        raise ValueError(f"{path} can't be read: {error}. If it may be damaged, get it again") from error


def _read_model(
    path: Path, dtype: torch.dtype, quantized: bool, families: Mapping[str, Family]
) -> LanguageModel:
    reader = Reader(path)
    fields = _Fields((name, field.contents()) for name, field in reader.fields.items())
    architecture, family = _find_family(fields, families)
    config = _read_config(fields, reader, architecture, family)
    tokenizer = _read_tokenizer(fields, family)
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(f"it has {tokenizer.vocab_size} tokens for a vocabulary of {config.vocab_size}")
    template = fields.get("tokenizer.chat_template")
    return LanguageModel(
        name=fields.get("general.name", path.stem),
        model=_read_decoder(reader, config, family, dtype, quantized),
        tokenizer=tokenizer,
        chat=ChatTemplate(template, tokenizer) if template else None,
    )


class _Fields(dict):
    """The file's settings, name → value."""

    def __missing__(self, name: str):
        raise ValueError(f"it lacks {name}, which a model's file has")


class Reader(gguf.GGUFReader):
    """The package's reader, faster and with a check.

    The package reads each of a vocabulary's 150,000 values through NumPy's slow memory-mapped class; with a
    plain array it takes a fifth of the time. This reader also raises ValueError at the end of the file, where
    the package reads on.
    """

    def _get(self, offset, dtype, count=1, override_order=None):
        if isinstance(self.data, np.memmap):
            self.data = np.asarray(self.data)
        values = super()._get(offset, dtype, count, override_order)
        if len(values) < count:
            raise ValueError(f"the file ends within the {count} values that should begin at byte {offset}")
        return values


def _find_family(fields: Mapping, families: Mapping[str, Family]) -> tuple[str, Family]:
    """Return the name of the file's architecture, and its family."""
    architecture = fields.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in families:
        raise ValueError(f"it holds a {architecture!r} model; handled are {', '.join(families)}")
    return architecture, families[architecture]


def _read_config(fields: Mapping, reader: gguf.GGUFReader, architecture: str, family: Family) -> ModelConfig:
    if fields.get(f"{architecture}.rope.scaling.type", "none") != "none":
        raise ValueError("it scales its positions, which is not handled")
    layers = {tensor.name.split(".")[1] for tensor in reader.tensors if tensor.name.startswith("blk.")}
    if len(layers) != (stated := fields[f"{architecture}.block_count"]):
        raise ValueError(f"it has weights for {len(layers)} layers and says {stated}")
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    tokens = fields["tokenizer.ggml.tokens"]
    return family.config(architecture, fields, tie_embeddings=tied, vocab_size=len(tokens))


def _read_tokenizer(fields: Mapping, family: Family) -> Tokenizer:
    model, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    patterns = family.pre_tokenizers
    if model != "gpt2" or pre not in patterns:
        raise ValueError(
            f"it has a {model!r} vocabulary with pre-tokenizer {pre!r}; handled are {list(patterns)}"
        )
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    if len(types) != len(tokens):
        raise ValueError(f"it has {len(tokens)} tokens and says what {len(types)} of them are")
    return Tokenizer.from_gpt2_strings(
        tokens,
        fields["tokenizer.ggml.merges"],
        special_ids=[i for i, kind in enumerate(types) if kind == gguf.TokenType.CONTROL],
        pattern=patterns[pre],
        unknown=fields.get("tokenizer.ggml.unknown_token_id"),
    )


def _read_decoder(
    reader: gguf.GGUFReader, config: ModelConfig, family: Family, dtype: torch.dtype, quantized: bool
) -> Decoder:
    with torch.device("meta"):  # no memory and no random values: every weight comes from the file
        model = Decoder(config)
    weights = {}
    for tensor in reader.tensors:
        if quantized and tensor.name.startswith("blk.") and tensor.tensor_type in BLOCK_FORMATS:
            _replace_linear(model, tensor, _read_blocks(tensor, config, family), family)
        else:
            weights[_parameter_name(tensor.name, family)] = _read_weight(tensor, config, family).to(dtype)
    if config.tie_embeddings:
        weights["head.weight"] = weights["embedding.weight"]
    weights |= {name: value for name, value in model.state_dict().items() if not value.is_meta}
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights don't fit the settings: {error}") from error
    model.tie()
    return model.eval().requires_grad_(False)


def _replace_linear(model: Decoder, tensor: gguf.ReaderTensor, stored: BlockWeight, family: Family) -> None:
    """Replace the linear layer that a tensor belongs to by one over its quantization blocks."""
    name = _parameter_name(tensor.name, family)
    _require_finite(tensor, stored.weight())
    if model.get_parameter(name).shape != stored.shape:
        raise ValueError(f"{name} has the shape {tuple(stored.shape)}, which doesn't fit the settings")
    exchange(model, {name.removesuffix(".weight"): QuantizedLinear(stored)})


def _parameter_name(name: str, family: Family) -> str:
    """Translate a tensor's name: "blk.13.attn_q.weight" → "blocks.13.attention.query.weight"."""
    parts = name.split(".")
    try:
        if parts[0] == "blk":
            return ".".join(["blocks", parts[1], family.block_tensors[parts[2]], parts[3]])
        return ".".join([family.tensors[parts[0]], parts[1]])
    except (KeyError, IndexError):
        raise ValueError(f"it holds a tensor {name!r}, which this decoder has no place for") from None


def _read_weight(tensor: gguf.ReaderTensor, config: ModelConfig, family: Family) -> Tensor:
    """Return a tensor of any handled type in 32 bits: a matrix (rows, columns) or a vector (rows,)."""
    if tensor.tensor_type in BLOCK_FORMATS:
        weight = _read_blocks(tensor, config, family).weight()
    elif tensor.tensor_type in FLOAT_FORMATS:
        weight = FLOAT_FORMATS[tensor.tensor_type](_read_bytes(tensor)).view(tensor.shape.tolist()[::-1])
        weight = _reorder_rows(tensor, weight, config, family)
    else:
        raise ValueError(f"{tensor.name} is stored as {tensor.tensor_type.name}, which is not handled")
    _require_finite(tensor, weight)
    return weight


def _require_finite(tensor: gguf.ReaderTensor, weight: Tensor) -> None:
    if not weight.sum().isfinite():
        raise ValueError(f"{tensor.name} holds values that are not finite")


def _read_blocks(tensor: gguf.ReaderTensor, config: ModelConfig, family: Family) -> BlockWeight:
    """Return a matrix in the file's own quantization blocks. At most, whole rows are reordered."""
    rows = _read_bytes(tensor).view(int(tensor.shape[1]), -1)  # (rows, bytes of a row)
    return BlockWeight(BLOCK_FORMATS[tensor.tensor_type], _reorder_rows(tensor, rows, config, family))


def _read_bytes(tensor: gguf.ReaderTensor) -> Tensor:
    """Return a copy of the tensor's bytes."""
    return torch.from_numpy(np.array(tensor.data)).view(torch.uint8)


def _reorder_rows(tensor: gguf.ReaderTensor, rows: Tensor, config: ModelConfig, family: Family) -> Tensor:
    """Return the rows (rows, …) in the order of `model.positions`."""
    rotary = family.interleaved_rows and (".attn_q." in tensor.name or ".attn_k." in tensor.name)
    return _separate_pairs(rows, config.d_head) if rotary else rows


def _separate_pairs(weight: Tensor, d_head: int) -> Tensor:
    """Undo llama.cpp's permutation of a query's or key's rows, (heads · d_head, …) → the same shape.

    llama.cpp puts the two coordinates of each rotary pair side by side; `model.positions` expects all first
    coordinates, then all second ones.
    """
    pairs = weight.unflatten(0, (-1, d_head // 2, 2))  # (heads, d_head / 2, 2, …)
    return pairs.transpose(1, 2).reshape(weight.shape)
