"""The Transformer of 2017: one stack reads the source, the other writes the target and looks at it all the while."""

from torch import Tensor, nn

from course_lib.model.block import Memory
from course_lib.model.config import ModelConfig
from course_lib.model.decoder import Decoder
from course_lib.model.encoder import Encoder
from course_lib.model.trace import Trace, at


class EncoderDecoder(nn.Module):
    """Source and target ids → logits for the target's next tokens (Vaswani et al. 2017, figure 1).

    Both texts share one vocabulary, and with tie_embeddings one table serves as both embeddings and as head (section 3.4).
    `decoder` writes on its own, given `memory`: `generate(model.decoder, prompt, memory=model.encode(source))`.

    >>> import torch
    >>> config = ModelConfig(vocab_size=50, d_model=16, n_layers=2, n_heads=4, n_kv_heads=4, d_head=4, d_ff=32, context=8)
    >>> EncoderDecoder(config)(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[5, 6]])).shape
    torch.Size([1, 2, 50])
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config, cross=True)
        if config.tie_embeddings:
            self.decoder.embedding = self.encoder.embedding
            self.decoder.tie()

    def forward(
        self, source: Tensor, target: Tensor, real: Tensor | None = None, trace: Trace | None = None
    ) -> Tensor:
        """Logits (batch, target time, vocab_size). source, target: ids (batch, time). real: (batch, source time), false at
        padding. (Padding at the target's end hides itself: no earlier token sees it.) trace: names begin with "encoder."
        or "decoder.". Raises ValueError as the two stacks do."""
        if trace is not None:
            trace.expect(self.activation_names())
        memory = self.encoder(source, real, at(trace, "encoder"))
        return self.decoder(target, trace=at(trace, "decoder"), memory=memory)

    def encode(self, source: Tensor, real: Tensor | None = None) -> Memory:
        """What the decoder looks at, worked out once for all the tokens that it writes."""
        return self.encoder(source, real)

    def activation_names(self) -> list[str]:
        """What a trace can see, in the order of the run."""
        stacks = ("encoder", self.encoder), ("decoder", self.decoder)
        return [f"{name}.{inner}" for name, stack in stacks for inner in stack.activation_names()]
