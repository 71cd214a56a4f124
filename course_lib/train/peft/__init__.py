"""Fine-tuning a small part, the rest frozen: wrapped around a model from outside, trained, taken off again.

Read in this order: `attach` (what all methods share), `lora` (low-rank changes to matrices), `bottleneck` (small layers between the
model's), `soft_prompt` (learned vectors in front of the text, or in front of every attention), and `peft_files` (LoRA as the
package `peft` stores it).

    attached = attach(model, LoRA(rank=8, alpha=16))      the same model, its base frozen
    train(model, batches, TrainConfig(steps=40))          only the small part learns
    with attached.off(): …                                the old model, bit for bit
    attached.save("tiger.safetensors")                    the small part alone
    attached.detach()                                     or attached.merge()

QLoRA (Dettmers et al. 2023) is the same over a model whose matrices were stored in four bits first (`quantize`).
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
