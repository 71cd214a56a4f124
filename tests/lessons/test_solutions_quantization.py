"""The solutions of the lesson on quantization agree with the library."""

import torch

from course_lib.course.lessons.quantization.exercises import read_block, round_to_grid
from course_lib.quantize import Q4_1, Uniform


def test_read_block():
    weights = torch.randn(1, 32, generator=torch.Generator().manual_seed(22))
    raw = Q4_1.encode(weights)
    assert torch.allclose(torch.tensor(read_block(bytes(raw.flatten().tolist()))), Q4_1.decode(raw)[0])


def test_round_to_grid():
    w = torch.randn(64, generator=torch.Generator().manual_seed(22))
    codes, scale = round_to_grid(w, 4)
    by_library = Uniform(bits=4).round(w[None])[0]
    assert torch.allclose(codes * scale, by_library, atol=0.01)  # the library's scale has 16 bits
