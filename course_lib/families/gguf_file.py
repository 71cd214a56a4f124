"""Reading GGUF, the one-file format of llama.cpp: settings, vocabulary, chat template and quantized weights.

`gguf_reader` finds everything in the file, by the `gguf` package. This module dequantizes the weights, or
keeps the quantization blocks of 4 and 8 bits as they are (`quantize.blocks`), and translates names and
layouts into the course's, by the table of the model's family (`family`). `gguf_vocabulary` makes the
tokenizer.

Not handled: vocabularies other than byte-level BPE; tensor types other than those in `BLOCK_FORMATS` and
`FLOAT_FORMATS`; a model in several files.
"""

import math
import reprlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import torch
from gguf import ReaderTensor
from torch import Tensor

from course_lib.arguments import check_flag
from course_lib.families.family import FAMILIES, Family, NotHandled, check_families, find_setting
from course_lib.families.gguf_reader import BLOCK_FORMATS, FLOAT_FORMATS, Reader, read_bytes, shape_of
from course_lib.families.gguf_vocabulary import read_chat, read_list, read_tokenizer
from course_lib.families.tensor_file import build_empty, check_dtype, is_finite, stored_weights
from course_lib.model import Decoder, LanguageModel, ModelConfig
from course_lib.model.exchange import exchange
from course_lib.quantize import BlockWeight, QuantizedLinear


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

    Raises FileNotFoundError, or ValueError that says what is wrong with the file, or what in it isn't
    handled. A chat template that isn't handled raises ValueError only when it is used. Raises TypeError for
    families that are no such table.
    """
    path = Path(path)
    check_dtype(dtype)
    check_flag("quantized", quantized)
    check_families(families)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return _read_model(path, dtype, quantized, families)
    except (MemoryError, OSError):
        raise
    except NotHandled as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    except Exception as error:  # a damaged file can lead to any exception
        raise ValueError(f"{path} can't be read: {error}. If it may be damaged, get it again") from error


def _read_model(
    path: Path, dtype: torch.dtype, quantized: bool, families: Mapping[str, Family]
) -> LanguageModel:
    reader = Reader(path, architectures=families)
    settings, tensors = reader.settings(), reader.tensors
    architecture = find_setting(settings, "general.architecture")
    family = families[architecture]
    config = _read_config(settings, tensors, architecture, family)
    tokenizer = read_tokenizer(settings, family)
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(f"it has {tokenizer.vocab_size} tokens for a vocabulary of {config.vocab_size}")
    chat = read_chat(settings, tokenizer)
    model = _read_decoder(tensors, config, family, dtype, quantized)
    return LanguageModel(str(settings.get("general.name", path.stem)), model, tokenizer, chat)


def _read_config(
    settings: Mapping, tensors: list[ReaderTensor], architecture: str, family: Family
) -> ModelConfig:
    if settings.get("split.count", 1) not in (0, 1):
        raise NotHandled("it is one of a model's several files; join them with llama.cpp's gguf-split")
    layers = {tensor.name.split(".")[1] for tensor in tensors if tensor.name.startswith("blk.")}
    if len(layers) != (stated := find_setting(settings, f"{architecture}.block_count")):
        raise ValueError(f"it has weights for {len(layers)} layers and says {reprlib.repr(stated)}")
    tied = all(tensor.name != "output.weight" for tensor in tensors)
    n_tokens = len(read_list(settings, "tokens", str))
    return family.config(architecture, settings, tie_embeddings=tied, vocab_size=n_tokens)


def _read_decoder(
    tensors: list[ReaderTensor], config: ModelConfig, family: Family, dtype: torch.dtype, quantized: bool
) -> Decoder:
    model = build_empty(Decoder, config, len(tensors))  # every weight comes from the file
    names = _place(tensors, family, {name: tuple(x.shape) for name, x in stored_weights(model).items()})
    weights, layers = {}, {}
    for tensor, name in zip(tensors, names, strict=True):
        in_layer = tensor.name.startswith("blk.") and len(tensor.shape) == 2
        if quantized and in_layer and tensor.tensor_type in BLOCK_FORMATS:
            stored = _read_blocks(tensor, config, family)
            _require_finite(tensor, stored.weight())
            layers[name.removesuffix(".weight")] = QuantizedLinear(stored)
        else:
            weights[name] = _read_weight(tensor, config, family).to(dtype)
            _require_finite(tensor, weights[name])
    exchange(model, layers)
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie()
    return model.eval().requires_grad_(False)


def _place(tensors: list[ReaderTensor], family: Family, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return each tensor's name in the model. shapes: those of the model's weights, by name.

    Raises ValueError unless every tensor has a place, in its shape, and every weight one tensor.
    """
    names = [_parameter_name(tensor.name, family) for tensor in tensors]
    first = {}
    for tensor, name in zip(tensors, names, strict=True):
        if (other := first.setdefault(name, tensor.name)) != tensor.name and name in shapes:
            raise ValueError(f"{other} and {tensor.name} are both {name}, by the names of its family")
        if name not in shapes:
            raise NotHandled(f"it holds a tensor {tensor.name!r}, which this decoder has no place for")
        if (shape := shape_of(tensor)) != shapes[name]:
            raise ValueError(
                f"{tensor.name} has the shape {shape}, and should have {shapes[name]} by the settings"
            )
    if missing := sorted(shapes.keys() - set(names)):
        raise ValueError(f"it has no tensor for {', '.join(missing[:3])} ({len(missing)} in all)")
    return names


def _parameter_name(name: str, family: Family) -> str | None:
    """Translate a tensor's name: "blk.13.attn_q.weight" → "blocks.13.attention.query.weight"."""
    match name.split("."):
        case "blk", layer, part, kind if part in family.block_tensors:
            return f"blocks.{layer}.{family.block_tensors[part]}.{kind}"
        case part, kind if part in family.tensors:
            return f"{family.tensors[part]}.{kind}"


def _read_weight(tensor: ReaderTensor, config: ModelConfig, family: Family) -> Tensor:
    """Return a tensor of any handled type in 32 bits: a matrix (rows, columns) or a vector (rows,)."""
    if tensor.tensor_type in BLOCK_FORMATS:
        return _read_blocks(tensor, config, family).weight().view(shape_of(tensor))
    weight = FLOAT_FORMATS[tensor.tensor_type](read_bytes(tensor)).view(shape_of(tensor))
    return _reorder_rows(tensor, weight, config, family)


def _require_finite(tensor: ReaderTensor, weight: Tensor) -> None:
    if not is_finite(weight):
        raise ValueError(f"{tensor.name} holds values that are not finite in {weight.dtype}")


def _read_blocks(tensor: ReaderTensor, config: ModelConfig, family: Family) -> BlockWeight:
    """Return a matrix in the file's own quantization blocks. At most, whole rows are reordered."""
    rows = read_bytes(tensor).view(math.prod(shape_of(tensor)[:-1]), -1)  # (rows, bytes of a row)
    return BlockWeight(BLOCK_FORMATS[tensor.tensor_type], _reorder_rows(tensor, rows, config, family))


def _reorder_rows(tensor: ReaderTensor, rows: Tensor, config: ModelConfig, family: Family) -> Tensor:
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
