"""Parameter-efficient fine-tuning: freeze a model and train a small part that is attached to it.

Read in this order:

    attach         what all methods share: attaching, detaching, merging, saving
    lora           low-rank updates of matrices
    bottleneck     adapters: small layers between the model's own
    soft_prompt    prompt tuning and prefix tuning: learned vectors before the text
    peft_files     reading and writing LoRA in the format of the package `peft`

    attached = attach(model, LoRA(rank=8, alpha=16))      the same model, its base frozen
    train(model, batches, TrainConfig(steps=40))          trains the attached parts only
    with attached.off(): …                                the base model, bit for bit
    attached.save("tiger.safetensors")                    the attached parts without the base
    attached.detach()                                     or attached.merge()

QLoRA (Dettmers et al. 2023) is LoRA over a model whose matrices were quantized to four bits first
(`quantize`).
"""

from course_lib.train.peft.attach import Attached, Method, Wrapper, attach
from course_lib.train.peft.bottleneck import Bottleneck, BottleneckAdapter
from course_lib.train.peft.lora import LoRA, LoRALinear
from course_lib.train.peft.peft_files import load_peft, save_peft
from course_lib.train.peft.soft_prompt import (
    Prefix,
    PrefixAttention,
    PromptedEmbedding,
    SoftPrompt,
    in_front,
)

__all__ = [
    "Attached",
    "Bottleneck",
    "BottleneckAdapter",
    "LoRA",
    "LoRALinear",
    "Method",
    "Prefix",
    "PrefixAttention",
    "PromptedEmbedding",
    "SoftPrompt",
    "Wrapper",
    "attach",
    "in_front",
    "load_peft",
    "save_peft",
]
