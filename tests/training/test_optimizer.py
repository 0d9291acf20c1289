"""Muon against an exact decomposition, AdamW against torch, packed moments."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from charnn.config import ModelConfig, TrainConfig, is_gate_matrix
from charnn.errors import ConfigError
from charnn.model import CELLS, LanguageModel
from charnn.training.optimizer import MOMENTUM, SMALLEST, Optimizer, orthogonalize


def network(cell: str = "lstm") -> LanguageModel:
    model = LanguageModel(ModelConfig(7, cell, embedding_size=6, hidden_size=8, num_layers=2))
    model.reset_parameters(torch.Generator().manual_seed(1))
    return model


def give_gradients(model: LanguageModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 5), (2, 5, 8), (1, 1, 4)])
def test_orthogonalizing_keeps_singular_vectors_and_moves_values_to_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    u, values, v = torch.linalg.svd(matrices, full_matrices=False)
    result = u.mT @ orthogonalize(matrices) @ v.mT
    diagonal = result.diagonal(dim1=1, dim2=2)
    assert_close(result, torch.diag_embed(diagonal), atol=1e-5, rtol=0)
    large = values > SMALLEST * matrices.norm(dim=(1, 2))[:, None]
    assert torch.all((diagonal - 1).abs()[large] < 0.1)
    assert torch.all((diagonal >= 0) & (diagonal < 1.1))


def test_orthogonalizing_zeros_gives_zeros():
    assert 0.0 == orthogonalize(torch.zeros(2, 4, 4)).abs().max()


def test_the_norm_of_a_gradient_does_not_change_a_step_of_muon():
    matrices = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(3))
    assert_close(orthogonalize(matrices), orthogonalize(1e-4 * matrices), atol=1e-2, rtol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_muon_orthogonalizes_momentum_gate_by_gate(cell):
    model = network(cell)
    config = TrainConfig(9, optimizer="muon", muon_rate=0.5, weight_decay=0.1)
    optimizer = Optimizer(model, config)
    name = "layers.0.cell.weight_ih"
    before, momentum = model.get_parameter(name).detach().clone(), torch.zeros(1)
    for seed, fraction in ((1, 0.5), (2, 0.25), (3, 0.125)):
        give_gradients(model, seed)
        optimizer.step(fraction)
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        ahead = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        if seed == 2:  # the turn of the other half
            assert_close(model.get_parameter(name).detach(), before)
            continue
        for gate in range(len(before) // 8):
            rows = slice(8 * gate, 8 * gate + 8)
            step = orthogonalize(ahead[None, rows])[0] * math.sqrt(8 / 6)
            before[rows] = (1 - 0.5 * fraction * 0.1) * before[rows] - 0.5 * fraction * step
        assert_close(model.get_parameter(name).detach(), before)


def test_muon_updates_gate_matrices_and_adamw_the_rest():
    model = network()
    optimizer = Optimizer(model, TrainConfig(9, optimizer="muon"))
    assert {name for name in model.state_dict() if is_gate_matrix(name)} == set(optimizer.momentum)
    assert 4 == len(optimizer.momentum)
    adamw = [name for names, _ in optimizer.groups for name in names]
    assert set(model.state_dict()) == {*adamw, *optimizer.momentum}
    assert len(list(model.parameters())) == len(adamw) + 4
    assert not Optimizer(model, TrainConfig(9, optimizer="adamw")).momentum


def test_adamw_equals_that_of_torch_to_the_bit():
    model, twin = network(), network()
    config = TrainConfig(9, optimizer="adamw", learning_rate=0.01, weight_decay=0.1)
    optimizer = Optimizer(model, config)
    groups = [
        {"params": [p for p in twin.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in twin.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    expected = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    for seed, fraction in ((1, 0.5), (2, 1.0), (3, 0.25)):
        for each in (model, twin):
            give_gradients(each, seed)
        for group in expected.param_groups:
            group["lr"] = 0.01 * fraction
        optimizer.step(fraction)
        expected.step()
    for name, weight in twin.named_parameters():
        assert torch.equal(weight, model.get_parameter(name)), name
        assert torch.equal(expected.state[weight]["exp_avg"], optimizer.moments["exp_avg"][name])


def test_a_weight_without_a_gradient_is_an_error():
    model = network()
    give_gradients(model, 1)
    model.head.weight.grad = None
    with pytest.raises(RuntimeError):
        Optimizer(model, TrainConfig(9, optimizer="adamw")).step(1.0)


def test_a_step_does_not_import_the_compiler_of_torch():
    code = (
        "import sys, torch\n"
        "from charnn.config import ModelConfig, TrainConfig\n"
        "from charnn.model import LanguageModel\n"
        "from charnn.training.optimizer import Optimizer\n"
        "network = LanguageModel(ModelConfig(7, 'gru', 6, 8, 1))\n"
        "for weight in network.parameters():\n"
        "    weight.grad = torch.ones_like(weight)\n"
        "Optimizer(network, TrainConfig(9)).step(1.0)\n"
        "assert 'torch._dynamo' not in sys.modules  # over a second of every start\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_an_unpacked_optimizer_continues_exactly(kind):
    config = TrainConfig(9, optimizer=kind)
    model, twin = network(), network()
    optimizer = Optimizer(model, config)
    assert config.tensor_shapes(model.config).keys() >= optimizer.pack().keys()
    for seed in (1, 2):
        give_gradients(model, seed)
        optimizer.step(1.0)
    twin.load_state_dict(model.state_dict())
    other = Optimizer(twin, config)
    other.unpack(optimizer.pack(), 2)
    for pair in ((model, optimizer), (twin, other)):
        give_gradients(pair[0], 3)
        pair[1].step(0.5)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, twin.state_dict()[name]), name
    for name, array in optimizer.pack().items():
        assert np.array_equal(array, other.pack()[name]), name


def test_an_unknown_optimizer_is_refused_by_name():
    with pytest.raises(ConfigError, match="sgd"):
        TrainConfig(9, optimizer="sgd")
