"""The Transformer of 2017: an encoder reads the source, a decoder that attends to it writes the target."""

from torch import Tensor, nn

from course_lib.model.block import Memory
from course_lib.model.checks import check_cache_and_trace
from course_lib.model.config import ModelConfig
from course_lib.model.decoder import Decoder
from course_lib.model.encoder import Encoder
from course_lib.model.trace import Trace, scope


class EncoderDecoder(nn.Module):
    """Source and target ids → logits for the target's next tokens (Vaswani et al. 2017, figure 1).

    The paper's settings: positions="sinusoidal", norm="layer", norm_place="post", feed_forward="relu",
    bias=True (the paper's projections of attention have none), scale_embeddings=True. Both texts share one
    vocabulary; with tie_embeddings one table serves as both embeddings and as the head (section 3.4).
    `decoder` also writes on its own, given `memory`: `generate(model.decoder, prompt,
    memory=model.encode(source))`.

    >>> import torch
    >>> sizes = dict(vocab_size=50, d_model=16, n_layers=2, n_heads=4, n_kv_heads=4, d_head=4, d_ff=32)
    >>> config = ModelConfig(**sizes, context=8)
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
        """Return logits, (batch, target time, vocab_size).

        source, target: ids (batch, time). real: (batch, source time), false at padding of the source. Padding
        at the end of the target needs no mask, since no earlier token attends to it. trace: the names of
        activations begin with "encoder." or "decoder.". Raises ValueError as the two stacks do.
        """
        check_cache_and_trace(None, trace)
        if trace is not None:
            trace.begin(self.activation_names())
        memory = self.encoder(source, real, scope(trace, "encoder"))
        return self.decoder(target, trace=scope(trace, "decoder"), memory=memory)

    def encode(self, source: Tensor, real: Tensor | None = None) -> Memory:
        """Return what the decoder attends to, computed once for all tokens to be written."""
        return self.encoder(source, real)

    def activation_names(self) -> list[str]:
        """Return the names of all activations, as a trace sees them, in the order of the run."""
        stacks = ("encoder", self.encoder), ("decoder", self.decoder)
        return [f"{name}.{inner}" for name, stack in stacks for inner in stack.activation_names()]
