"""The checks that several rooms share: whole numbers of every kind, and truth values, which are none."""

import numpy as np
import pytest
import torch

from course_lib.arguments import to_int, token_ids, whole

TRUTHS = [True, np.True_, np.array(True), torch.tensor(True), torch.tensor([True])]


@pytest.mark.parametrize("value", [3, np.uint8(3), np.array(3), torch.tensor(3), torch.tensor([3])])
def test_whole_numbers_of_every_kind_become_ints(value):
    assert [to_int(value), whole("n", value), *token_ids("ids", [value])] == [3, 3, 3]
    assert type(to_int(value)) is type(whole("n", value)) is int


@pytest.mark.parametrize(
    "value", [*TRUTHS, 3.0, "3", None, [3], torch.zeros(2), torch.ones(1, device="meta")]
)
def test_truth_values_and_others_are_no_numbers(value):
    with pytest.raises(TypeError, match="n must be a whole number, not"):
        whole("n", value)
    with pytest.raises(TypeError, match=r"ids\[0\] must be a whole number"):
        token_ids("ids", [value])
    with pytest.raises(TypeError):
        to_int(value)
