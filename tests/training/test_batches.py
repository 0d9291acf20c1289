"""Contiguous streams: what follows what, what is left out, where they start again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charnn.errors import DamagedFile, TextError
from charnn.training.batches import StreamBatches


@given(st.integers(1, 6), st.integers(1, 7), st.integers(2, 300))
def test_every_stream_reads_its_stretch_in_order_and_without_a_gap(batch_size, bptt, count):
    tokens = np.arange(count, dtype=np.uint16)
    if (count - 1) // batch_size < bptt:
        with pytest.raises(TextError):
            StreamBatches(tokens, batch_size, bptt, count)
        return
    batches = StreamBatches(tokens, batch_size, bptt, count)
    windows = [batches.window(step) for step in range(batches.windows_per_epoch)]
    inputs = np.concatenate([w.inputs.numpy() for w in windows])
    targets = np.concatenate([w.targets.numpy() for w in windows])
    assert (targets == inputs + 1).all()
    assert (np.diff(inputs, axis=0) == 1).all()
    assert len(np.unique(targets)) == targets.size
    assert 0 <= count - 1 - targets.size < batch_size * bptt
    assert [w.first for w in windows] == [True] + [False] * (len(windows) - 1)


def test_a_new_pass_reads_the_text_as_a_ring_from_a_place_of_its_own():
    def windows(step, seed=1):
        return StreamBatches(np.arange(100, dtype=np.uint8), 3, 5, 100, seed).window(step)

    passes = [windows(6 * number) for number in range(5)]
    starts = [int(window.inputs[0, 0]) for window in passes]
    assert 0 == starts[0]
    assert 5 == len(set(starts))
    for window in passes:
        assert window.first
        assert torch.equal(window.targets, (window.inputs + 1) % 100)
    assert torch.equal(windows(7).inputs, (passes[1].inputs + 5) % 100)
    assert torch.equal(windows(6).inputs, passes[1].inputs)
    assert not torch.equal(windows(6, seed=2).inputs, passes[1].inputs)


def test_an_id_outside_the_vocabulary_is_a_damaged_file():
    with pytest.raises(DamagedFile):
        StreamBatches(np.full(50, 9, np.uint8), 2, 3, 9).window(0)
