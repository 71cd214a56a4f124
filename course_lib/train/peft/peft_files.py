"""LoRA in the format of the package `peft`: a folder with adapter_config.json and adapter_model.safetensors.

What was trained here can be used in `peft`, on `transformers`' Llama with the same weights, and the other way
round. Only the names differ: blocks.3.attention.query is base_model.model.model.layers.3.self_attn.q_proj in
`peft`.

Not handled: methods other than LoRA, architectures other than Llama's, and LoRA's variants (rsLoRA, DoRA,
trained biases, ranks or scales that differ between layers). A folder that needs one of these is refused.
"""

import json
from pathlib import Path
from reprlib import repr as brief

from safetensors import SafetensorError
from torch import Tensor, nn

from course_lib.families.family import LLAMA
from course_lib.families.tensor_file import (
    MARK,
    copy_weights,
    parse_tensors,
    require_finite,
    require_same,
    write_tensors,
)
from course_lib.model import Decoder
from course_lib.train.peft.attach import Attached, attach
from course_lib.train.peft.lora import LoRA
from course_lib.whole_files import replacing

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PEFT_PATHS = LLAMA.transformers_names  # "attention.query" → "self_attn.q_proj"
# "q_proj" → "attention.query"
TARGETS = {path.rpartition(".")[2]: target for target, path in PEFT_PATHS.items()}
# The values of settings with which peft computes plain LoRA.
PLAIN_SETTINGS = {
    "use_rslora": False,
    "use_dora": False,
    "bias": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": None,
    "exclude_modules": None,
    "target_parameters": None,
    "fan_in_fan_out": False,
}
# Settings of later versions that must be unset. They are not written.
UNSET_SETTINGS = (
    "lora_bias",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
    "arrow_config",
)
# Values of `init_lora_weights` that leave the base's weights as they are.
INITIALIZATIONS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")


def save_peft(folder: str | Path, attached: Attached) -> None:
    """Write LoRA for `peft`. The folder is created where it is missing.

    The file of weights says too which LoRA it belongs to, so that one written by a call that was interrupted
    isn't taken for one of the configuration that was there before.

    Raises ValueError for methods other than LoRA, architectures other than Llama's, and weights that aren't
    finite.
    """
    _require_llama(attached.model)
    kind = type(attached.method)
    if kind is not LoRA:
        raise ValueError(f"only LoRA is written for peft, not {kind.__name__}: use attached.save(…)")
    config = _make_config(attached.method)
    require_finite("what was trained can't be saved", attached.weights)
    tensors = {_peft_name(name): weight for name, weight in attached.weights.items()}
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_tensors(Path(folder) / WEIGHTS, tensors, {"kind": "peft", "lora": _settings(attached.method)})
    _write_json(Path(folder) / CONFIG, config)


def load_peft(model: nn.Module, folder: str | Path) -> Attached:
    """Attach the LoRA that `peft` wrote.

    Raises FileNotFoundError, and ValueError, leaving the model as it was, for a folder that is damaged, isn't
    plain LoRA, or belongs to a model of other sizes.
    """
    _require_llama(model)
    method = _read_config(Path(folder) / CONFIG)
    tensors = _read_weights(Path(folder) / WEIGHTS, method)
    attached = attach(model, method)
    try:
        weights = {_peft_name(name): weight for name, weight in attached.weights.items()}
        copy_weights(weights, tensors, folder)
    except BaseException:  # also an interrupt: the caller gets no `Attached` to detach
        attached.detach()
        raise
    return attached


def _settings(method: LoRA) -> dict:
    """Return what a file of weights says about its LoRA."""
    return {"rank": method.rank, "alpha": method.alpha, "targets": sorted(method.targets)}


def _peft_name(name: str) -> str:
    """Return a weight's name in `peft`.

    >>> _peft_name("blocks.3.attention.query.A")
    'base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight'
    """
    path, _, matrix = name.rpartition(".")
    _, layer, target = path.split(".", 2)
    return f"base_model.model.model.layers.{layer}.{PEFT_PATHS[target]}.lora_{matrix}.weight"


def _make_config(method: LoRA) -> dict:
    """Return the content of adapter_config.json. Raises ValueError for a target that Llama doesn't have."""
    for target in method.targets:
        if target not in PEFT_PATHS:
            raise ValueError(f"{target} has no counterpart in Llama; name targets as {', '.join(PEFT_PATHS)}")
    return PLAIN_SETTINGS | {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": method.rank,
        "lora_alpha": method.alpha,
        "lora_dropout": 0.0,
        "target_modules": [PEFT_PATHS[target].rpartition(".")[2] for target in method.targets],
    }


def _read_config(path: Path) -> LoRA:
    """Return the LoRA that adapter_config.json describes. Raises ValueError for what isn't plain LoRA."""
    config = _read_json(path)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ValueError(f"{path} doesn't describe a LoRA")
    _require_plain_lora(config, path)
    modules = config.get("target_modules")
    if not isinstance(modules, list) or not set(map(str, modules)) <= TARGETS.keys():
        raise ValueError(
            f"{path} has the targets {brief(modules)}; handled are lists of {', '.join(TARGETS)}"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or type(alpha) not in (int, float):
        raise ValueError(
            f"{path} has r = {brief(rank)} and lora_alpha = {brief(alpha)}, which should be numbers"
        )
    return LoRA(rank, alpha, sorted(TARGETS[module] for module in modules))


def _require_plain_lora(config: dict, path: Path) -> None:
    """Raise ValueError for settings with which peft computes something other than plain LoRA."""
    for name, plain in (PLAIN_SETTINGS | dict.fromkeys(UNSET_SETTINGS)).items():
        if (config.get(name) or None) != (plain or None):
            raise ValueError(f"{path} asks for {name} = {brief(config.get(name))}, which is not handled here")
    if (initialization := config.get("init_lora_weights")) not in INITIALIZATIONS:
        raise ValueError(
            f"{path} began as {brief(initialization)}, which may change the base's weights too: "
            "convert it to plain LoRA in peft"
        )


def _read_json(path: Path) -> object:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # with or without a byte order mark
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is no JSON ({error})") from None


def _read_weights(path: Path, method: LoRA) -> dict[str, Tensor]:
    """Return the weights. Raises ValueError for those of another LoRA, where the file says what it is of."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        tensors, metadata = parse_tensors(path.read_bytes())
        facts = json.loads(metadata.get(MARK, "{}"))
    except (SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error})") from None
    if isinstance(facts, dict) and "lora" in facts:
        mixed = f"{path} and {CONFIG} were saved by two calls, save both anew: LoRA"
        require_same(mixed, facts["lora"], _settings(method))
    return tensors


def _write_json(path: Path, content: dict) -> None:
    """Write JSON. An existing file is replaced only once the new one is complete."""
    with replacing(path) as file:
        file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _require_llama(model: nn.Module) -> None:
    decoder_only = isinstance(model, Decoder) and not model.cross
    if not decoder_only or not LLAMA.matches(model.config):
        raise ValueError("peft's files are read and written for models of Llama's kind only")
