import numpy as np
import pytest
import torch
from torch.nn import functional

from charnn.config import GATES, ModelConfig
from charnn.engines import float32, make_predictor
from charnn.model.language_model import LanguageModel

SHAPES = [
    ModelConfig(vocab_size=11, cell=cell, embedding_size=e, hidden_size=h, num_layers=layers)
    for cell in GATES
    for e, h, layers in ((24, 24, 1), (24, 24, 3), (10, 24, 2), (1, 1, 2))
]
TOKENS = [0, 3, 3, 10, 7, 1, 1, 1, 9, 2, 5, 4]


def random_weights(config):
    generator = np.random.default_rng(1)
    weights = {}
    for name, shape in config.tensor_shapes().items():
        values = generator.normal(0.3, 0.7, shape)
        weights[name] = values.astype(np.float32)
    return weights


def torch_cell(config, weights, layer):
    """Returns torch.nn's own cell with the given weights; it has two biases instead of one."""
    kind = {"rnn": torch.nn.RNNCell, "gru": torch.nn.GRUCell, "lstm": torch.nn.LSTMCell}
    cell = kind[config.cell](config.input_size(layer), config.hidden_size)
    prefix = f"layers.{layer}.cell"
    bias_hh = torch.zeros_like(cell.bias_hh)
    if config.cell == "gru":
        bias_hh[2 * config.hidden_size :] = torch.from_numpy(weights[f"{prefix}.bias_hn"])
    with torch.no_grad():
        cell.weight_ih.copy_(torch.from_numpy(weights[f"{prefix}.weight_ih"]))
        cell.weight_hh.copy_(torch.from_numpy(weights[f"{prefix}.weight_hh"]))
        cell.bias_ih.copy_(torch.from_numpy(weights[f"{prefix}.bias"]))
        cell.bias_hh.copy_(bias_hh)
    return cell


@torch.no_grad()
def torch_logits(config, weights, tokens):
    t = {name: torch.from_numpy(values) for name, values in weights.items()}
    cells = [torch_cell(config, weights, layer) for layer in range(config.num_layers)]
    h = [torch.zeros(1, config.hidden_size) for _ in cells]
    c = [torch.zeros(1, config.hidden_size) for _ in cells]
    rows = []
    for token in tokens:
        x = t["embedding.weight"][token][None]
        for layer, cell in enumerate(cells):
            norm = f"layers.{layer}.norm"
            n = functional.layer_norm(x, x.shape[-1:], t[f"{norm}.weight"], t[f"{norm}.bias"], 1e-5)
            if config.cell == "lstm":
                h[layer], c[layer] = cell(n, (h[layer], c[layer]))
            else:
                h[layer] = cell(n, h[layer])
            x = x + h[layer] if x.shape[-1] == config.hidden_size else h[layer]
        x = functional.layer_norm(x, x.shape[-1:], t["norm.weight"], t["norm.bias"], 1e-5)
        rows.append((x @ t["head.weight"].T + t["head.bias"])[0].numpy())
    return np.stack(rows)


def numpy_logits(model, tokens):
    state, rows = model.initial_state(), []
    for token in tokens:
        logits, state = model.step(token, state)
        rows.append(logits)
    return np.stack(rows)


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_logits_equal_those_of_torchs_own_cells(config):
    weights = random_weights(config)
    expected = torch_logits(config, weights, TOKENS)
    np.testing.assert_allclose(
        numpy_logits(make_predictor(config, weights, "numpy"), TOKENS), expected, atol=1e-4
    )


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_logits_equal_those_of_the_torch_model(config):
    weights = random_weights(config)
    twin = LanguageModel(config).eval()
    twin.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    with torch.no_grad():
        expected, _ = twin(torch.tensor(TOKENS)[:, None], twin.initial_state(1))
    actual = numpy_logits(make_predictor(config, weights, "numpy"), TOKENS)
    np.testing.assert_allclose(actual, expected[:, 0].numpy(), atol=1e-4)


@pytest.mark.parametrize("cell", GATES)
def test_a_large_offset_of_the_residual_stream_does_not_cost_precision(cell):
    config = ModelConfig(11, cell, 32, 32, 2)
    weights = random_weights(config)
    weights["embedding.weight"] += 300
    expected = torch_logits(config, weights, TOKENS)
    np.testing.assert_allclose(
        numpy_logits(make_predictor(config, weights, "numpy"), TOKENS), expected, atol=2e-3
    )


@pytest.mark.parametrize("cell", GATES)
def test_a_step_changes_neither_its_input_state_nor_the_weights(cell):
    config = ModelConfig(11, cell, 16, 16, 2)
    weights = random_weights(config)
    before = {name: values.copy() for name, values in weights.items()}
    model = make_predictor(config, weights, "numpy")
    logits, state = model.step(3, model.initial_state())
    kept_logits, kept = logits.copy(), state.copy()
    first, _ = model.step(4, state)
    model.step(5, state)
    again, _ = model.step(4, state)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(kept_logits, logits)
    np.testing.assert_array_equal(kept, state)
    for name, values in before.items():
        np.testing.assert_array_equal(values, weights[name])


@pytest.mark.parametrize("cell", GATES)
def test_feeding_a_prompt_equals_stepping_through_it(cell):
    config = ModelConfig(11, cell, 8, 16, 2)
    model = make_predictor(config, random_weights(config), "numpy")
    fed, fed_state = model.feed(np.array(TOKENS, np.uint8), model.initial_state())
    state = model.initial_state()
    for token in TOKENS:
        stepped, state = model.step(token, state)
    np.testing.assert_array_equal(stepped, fed)
    np.testing.assert_array_equal(state, fed_state)


def test_omitting_the_token_table_changes_no_bit(monkeypatch):
    config = ModelConfig(11, "lstm", 8, 8, 2)
    weights = random_weights(config)
    expected = numpy_logits(make_predictor(config, weights, "numpy"), TOKENS)
    monkeypatch.setattr(float32, "MAX_TABLE_BYTES", 0)
    np.testing.assert_array_equal(
        expected, numpy_logits(make_predictor(config, weights, "numpy"), TOKENS)
    )


def test_aligned_arrays_start_on_cache_lines_and_do_not_overlap():
    arrays = float32.aligned([(3, 5), (7,), (16,)])
    for number, array in enumerate(arrays):
        array[...] = number
    assert [(3, 5), (7,), (16,)] == [array.shape for array in arrays]
    assert all(array.ctypes.data % 64 == 0 for array in arrays)
    assert all((array == number).all() for number, array in enumerate(arrays))
