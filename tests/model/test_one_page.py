"""A whole Llama on one page is the library's decoder."""

import ast
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from references import random_tokens, smollm2, tiny_config, tiny_decoder

from course_lib.model import Trace, one_page
from course_lib.model.one_page import llama

TEXT = "The tiger jumped out of a tree to get a drink because it was thirsty. It"


def logits_of(model, ids, by_hand=False):
    trace = Trace(edits={"*.attention.weights": lambda weights: weights}) if by_hand else None
    with torch.no_grad():
        return model(ids[None], trace=trace)[0]


@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 6}, {"n_kv_heads": 1}, {"tie_embeddings": False}])
@pytest.mark.parametrize("time", [1, 2, 17])
def test_it_is_the_decoder(changes, time):
    model = tiny_decoder(**changes)
    ids = random_tokens(model, time)[0, :time]
    torch.testing.assert_close(
        llama(ids, model.state_dict(), model.config), logits_of(model, ids), atol=1e-12, rtol=1e-12
    )


def test_it_is_smollm2():
    lm = smollm2()
    ids = torch.tensor(lm.tokenizer.encode(TEXT))
    ours, theirs = llama(ids, lm.model.state_dict(), lm.model.config), logits_of(lm.model, ids)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert lm.tokenizer.decode([int(ours[-1].argmax())]) == " was"


def test_with_the_same_operations_it_is_smollm2_to_the_bit(monkeypatch):
    """PyTorch's own norm, and attention by hand in both."""
    monkeypatch.setattr(one_page, "rms_norm", lambda x, weight, eps: F.rms_norm(x, weight.shape, weight, eps))
    lm = smollm2()
    ids = torch.tensor(lm.tokenizer.encode(TEXT))
    ours = llama(ids, lm.model.state_dict(), lm.model.config)
    assert torch.equal(ours, logits_of(lm.model, ids, by_hand=True))


def test_no_token_depends_on_a_later_one():
    model, (ids, others) = tiny_decoder(), torch.tensor([[3, 1, 4, 1, 5], [3, 1, 4, 9, 2]])
    ours, theirs = (llama(row, model.state_dict(), model.config) for row in (ids, others))
    torch.testing.assert_close(ours[:3], theirs[:3], atol=0, rtol=0)
    assert not torch.allclose(ours[3], theirs[3])


def test_it_is_one_page_that_imports_nothing_of_the_library():
    source = Path(one_page.__file__).read_text("utf-8")
    assert len(source.splitlines()) <= 100
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert modules == {"collections.abc", "torch", "torch.nn.functional"}


def test_its_configuration_is_any_object_with_llamas_sizes():
    model = tiny_decoder()
    config = tiny_config()
    needed = {
        name: getattr(config, name) for name in ("n_layers", "n_heads", "n_kv_heads", "d_head", "rope_base")
    }
    sizes = type("Sizes", (), needed | {"norm_eps": config.norm_eps})
    ids = torch.tensor([5, 3])
    assert torch.equal(llama(ids, model.state_dict(), sizes), llama(ids, model.state_dict(), config))
