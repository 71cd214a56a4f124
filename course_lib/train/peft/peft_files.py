"""LoRA as the package `peft` stores it: a folder with adapter_config.json and adapter_model.safetensors.

What was trained here can be used there, on `transformers`' Llama with the same weights, and the other way round. Only names
differ: blocks.3.attention.query there is base_model.model.model.layers.3.self_attn.q_proj.

Not handled: other methods than LoRA, other architectures than Llama's, and LoRA's variants (rsLoRA, DoRA, trained biases, ranks or scales
that differ between layers); a folder that asks for one is refused.
"""

import json
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from course_lib.families.family import LLAMA
from course_lib.families.tensor_file import write_tensors
from course_lib.model import Decoder
from course_lib.train.peft.attach import Attached, attach, fill
from course_lib.train.peft.lora import LoRA

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
THEIRS = LLAMA.transformers
OURS = {their.rpartition(".")[2]: our for our, their in THEIRS.items()}
# Settings under which peft computes something else than LoRA as it is here.
PLAIN = {
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
# The same, of later versions only: not written, and refused where one is set.
VARIANTS = (
    "lora_bias",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
)
VARIANTS += ("monteclora_config", "arrow_config")
STARTS = (
    None,
    True,
    False,
    "gaussian",
    "eva",
    "orthogonal",
    "mica",
)  # those that leave the base's weights as they are


def save_peft(folder: str | Path, attached: Attached) -> None:
    """Write LoRA for `peft`. The folder is made where it is missing. Raises ValueError for other methods and architectures."""
    _require_llama(attached.model)
    kind = type(attached.method)
    if kind is not LoRA:
        raise ValueError(f"only LoRA is written for peft, not {kind.__name__}: use attached.save(…)")
    config = _config(attached.method)
    tensors = {_their_name(name): weight for name, weight in attached.weights.items()}
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_tensors(Path(folder) / WEIGHTS, tensors, {"kind": "peft"})
    _write_json(Path(folder) / CONFIG, config)


def load_peft(model: nn.Module, folder: str | Path) -> Attached:
    """Attach the LoRA that `peft` wrote. Raises FileNotFoundError, and ValueError, the model left as it was, for a folder that
    is damaged, isn't plain LoRA, or belongs to a model of other sizes."""
    _require_llama(model)
    method = _method(Path(folder) / CONFIG)
    tensors = _tensors(Path(folder) / WEIGHTS)
    attached = attach(model, method)
    try:
        fill({_their_name(name): weight for name, weight in attached.weights.items()}, tensors, folder)
    except ValueError:
        attached.detach()
        raise
    return attached


def _their_name(name: str) -> str:
    """blocks.3.attention.query.A → base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight"""
    path, _, matrix = name.rpartition(".")
    _, layer, part = path.split(".", 2)
    return f"base_model.model.model.layers.{layer}.{THEIRS[part]}.lora_{matrix}.weight"


def _config(method: LoRA) -> dict:
    for target in method.targets:
        if target not in THEIRS:
            raise ValueError(f"{target} has no counterpart in Llama; name targets as {', '.join(THEIRS)}")
    return PLAIN | {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": method.rank,
        "lora_alpha": method.alpha,
        "lora_dropout": 0.0,
        "target_modules": [THEIRS[target].rpartition(".")[2] for target in method.targets],
    }


def _method(path: Path) -> LoRA:
    """The dials in a configuration. Raises ValueError for what isn't plain LoRA."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is no JSON ({error})") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ValueError(f"{path} doesn't describe a LoRA")
    for name, plain in (PLAIN | dict.fromkeys(VARIANTS)).items():
        if (config.get(name) or None) != (plain or None):
            raise ValueError(f"{path} asks for {name} = {config.get(name)!r}, which is not handled here")
    if (start := config.get("init_lora_weights")) not in STARTS:
        raise ValueError(
            f"{path} began as {start!r}, which may change the base's weights too: convert it to plain LoRA in peft"
        )
    modules = config.get("target_modules")
    if not isinstance(modules, list) or not set(map(str, modules)) <= OURS.keys():
        raise ValueError(f"{path} has the targets {modules!r}; handled are lists of {', '.join(OURS)}")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or type(alpha) not in (int, float):
        raise ValueError(f"{path} has r = {rank!r} and lora_alpha = {alpha!r}, which should be numbers")
    return LoRA(rank, alpha, sorted(OURS[module] for module in modules))


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error})") from None


def _write_json(path: Path, content: dict) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _require_llama(model: nn.Module) -> None:
    alone = isinstance(model, Decoder) and not model.cross
    if not alone or not LLAMA.is_of(model.config):
        raise ValueError("peft's files are read and written for models of Llama's kind only")
