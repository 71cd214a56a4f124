"""Tables in which a model looks tokens up beside its embedding: of pairs of tokens, and for its values.

Both are known from the races to train GPT-2 fast (github.com/KellerJordan/modded-nanogpt; the table of values
is from the record of 4 December 2024). They cost next to no arithmetic, since a lookup is no product, but
they cost memory. A model with them is none that other programs know.
"""

from torch import Tensor, nn

from course_lib.model import Decoder

ROWS = 8192  # of the table of pairs: many fewer than there are pairs


class Wrapped(nn.Module):
    """An embedding inside another module, with its table under the name that a decoder expects."""

    def __init__(self, base: nn.Embedding):
        super().__init__()
        self.base = base

    @property
    def weight(self) -> Tensor:
        return self.base.weight


class Bigrams(Wrapped):
    """An embedding that adds to each token's vector one for the token and the one before it.

    A hash decides which pairs share a row.
    """

    def __init__(self, base: nn.Embedding):
        super().__init__(base)
        self.pairs = nn.Embedding(ROWS, base.embedding_dim)
        nn.init.zeros_(self.pairs.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        before = nn.functional.pad(tokens, (1, 0))[:, :-1]  # (batch, time)
        return self.base(tokens) + self.pairs((before * 1_000_003 + tokens * 7919) % ROWS)


class Remembering(Wrapped):
    """An embedding that keeps the tokens that it was last asked for."""

    tokens: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        self.tokens = tokens
        return self.base(tokens)


class ValueTable(nn.Module):
    """A layer of values that adds a vector looked up by the token itself."""

    def __init__(self, base: nn.Linear, embedding: Remembering):
        super().__init__()
        self.base, self.embedding = base, [embedding]  # in a list: its weights aren't this layer's
        self.table = nn.Embedding(embedding.base.num_embeddings, base.out_features)
        nn.init.zeros_(self.table.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.table(self.embedding[0].tokens)


def add_bigrams(model: Decoder) -> None:
    """Give a model's embedding a table of pairs, in place."""
    model.embedding = Bigrams(model.embedding)


def add_value_tables(model: Decoder) -> None:
    """Give the values of the first and the last block a table of tokens, in place."""
    model.embedding = Remembering(model.embedding)
    for block in (model.blocks[0], model.blocks[-1]):
        block.attention.value = ValueTable(block.attention.value, model.embedding)


TABLES = {"bigrams": add_bigrams, "values": add_value_tables}
