"""The whole network: shapes, state, dropout, precision."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from charnn.config import ModelConfig
from charnn.model import CELLS, LanguageModel, detach
from charnn.model.language_model import Masks
from charnn.model.state import pack_state, unpack_state

V, B, T = 11, 3, 9


def network(cell: str = "lstm", **shape) -> LanguageModel:
    shape = {"hidden_size": 8, "embedding_size": 8, "num_layers": 2} | shape
    model = LanguageModel(ModelConfig(vocab_size=V, cell=cell, **shape))
    model.reset_parameters(torch.Generator().manual_seed(4))
    with torch.no_grad():
        model.head.weight.mul_(50)  # so that a difference shows in the logits
    return model.eval()


def tokens() -> torch.Tensor:
    return torch.randint(V, (T, B), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", [{}, {"num_layers": 1}, {"embedding_size": 5, "num_layers": 3}])
def test_a_whole_window_equals_token_by_token(cell, shape):
    model = network(cell, **shape)
    state = model.initial_state(B)
    whole, end = model(tokens(), state)
    assert (T, B, V) == whole.shape
    pieces = []
    for row in tokens():
        logits, state = model(row[None], state)
        pieces.append(logits)
    assert_close(torch.cat(pieces), whole)
    assert_close(pack_tensors(state), pack_tensors(end))


@pytest.mark.parametrize("cell", CELLS)
def test_streams_are_independent(cell):
    model = network(cell)
    together, _ = model(tokens(), model.initial_state(B))
    alone, _ = model(tokens()[:, :1], model.initial_state(1))
    assert_close(together[:, :1], alone)


@pytest.mark.parametrize("cell", CELLS)
def test_tensor_shapes_lists_every_weight(cell):
    for shape in ({}, {"embedding_size": 3}):
        model = network(cell, **shape)
        found = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
        assert model.config.tensor_shapes() == found
        assert model.config.parameters == sum(p.numel() for p in model.parameters())


def test_an_untrained_network_favours_no_symbol():
    model = LanguageModel(ModelConfig(vocab_size=V))
    logits, _ = model.eval()(tokens(), model.initial_state(B))
    assert logits.softmax(-1).max() < 2 / V


def masks(seed: int) -> Masks:
    return Masks(torch.Generator().manual_seed(seed), B, torch.arange(B))


def test_dropout_depends_on_the_generator_alone_and_only_in_training():
    model = network(dropout=0.5)
    state = model.initial_state(B)
    plain, _ = model(tokens(), state)
    again, _ = model(tokens(), state, masks(1))
    assert_close(again, plain)
    model.train()
    first, _ = model(tokens(), state, masks(1))
    second, _ = model(tokens(), state, masks(1))
    other, _ = model(tokens(), state, masks(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not torch.allclose(first, plain)


def test_evaluation_is_always_float32():
    model = network()
    plain, _ = model(tokens(), model.initial_state(B))
    model.recurrent_dtype = torch.bfloat16
    again, _ = model(tokens(), model.initial_state(B))
    assert torch.equal(plain, again)


@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16_training_stays_near_float32(cell):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return  # the processor has no bfloat16, and charnn does not offer it there
    model = network(cell).train()
    exact, _ = model(tokens(), model.initial_state(B))
    model.recurrent_dtype = torch.bfloat16
    rough, state = model(tokens(), model.initial_state(B))
    assert_close(rough, exact, atol=0.1, rtol=0.1)
    assert all(part.dtype == torch.float32 for layer in state for part in layer)


def test_detaching_a_state_keeps_its_values():
    model = network().train()
    _, state = model(tokens(), model.initial_state(B))
    cut = detach(state)
    assert_close(pack_tensors(cut), pack_tensors(state))
    assert not any(part.requires_grad for layer in cut for part in layer)


@pytest.mark.parametrize("cell", CELLS)
def test_a_packed_state_can_be_restored(cell):
    model = network(cell)
    with torch.inference_mode():
        _, state = model(tokens(), model.initial_state(B))
    restored = unpack_state(model.initial_state(B), pack_state(state), "cpu")
    assert type(state[0]) is type(restored[0])
    assert_close(pack_tensors(restored), pack_tensors(state))


def pack_tensors(state) -> list[torch.Tensor]:
    return [part for layer in state for part in layer]
