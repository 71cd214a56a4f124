"""The solutions of the lesson on decoder-only models agree with the library's model."""

import pytest

from course_lib.course.lessons.decoder_only.exercises import count
from course_lib.model import Decoder, ModelConfig, count_parameters

SIZES = {"vocab_size": 70, "d_model": 24, "n_layers": 3, "d_ff": 50, "context": 8}


@pytest.mark.parametrize(("n_heads", "n_kv_heads", "d_head"), [(6, 2, 10), (3, 3, 8)])
def test_count_is_the_number_of_the_decoders_parameters(n_heads, n_kv_heads, d_head):
    config = ModelConfig(**SIZES, n_heads=n_heads, n_kv_heads=n_kv_heads, d_head=d_head)
    assert count(config) == count_parameters(Decoder(config))[0]
