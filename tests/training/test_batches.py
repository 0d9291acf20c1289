"""Parallel streams: their order, their ends and the offset of each pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charnn.errors import TextError
from charnn.training.batches import StreamBatches


@given(st.integers(1, 6), st.integers(1, 7), st.integers(2, 300))
def test_streams_read_the_text_in_order_and_without_a_gap(batch_size, bptt, count):
    tokens = np.arange(count, dtype=np.uint16)
    if (count - 1) // batch_size < bptt:
        with pytest.raises(TextError):
            StreamBatches(tokens, batch_size, bptt)
        return
    batches = StreamBatches(tokens, batch_size, bptt)
    windows = [batches.window(step) for step in range(batches.windows_per_epoch)]
    parts = [part for window in windows for part in window.parts]
    inputs = np.concatenate([part.inputs.numpy() for part in parts])
    targets = np.concatenate([part.targets.numpy() for part in parts])
    assert all(list(range(batch_size)) == part.streams.tolist() for part in parts)
    assert all(batch_size * bptt == window.size for window in windows)
    assert (targets == inputs + 1).all()
    assert (np.diff(inputs, axis=0) == 1).all()
    assert len(np.unique(targets)) == targets.size
    assert 0 <= count - 1 - targets.size < batch_size * bptt
    assert windows[0].fresh.all()
    assert not any(window.fresh.any() for window in windows[1:])


def test_each_pass_reads_the_text_as_a_ring_from_a_random_offset():
    def part_of(step, seed=1):
        window = StreamBatches(np.arange(100, dtype=np.uint8), 3, 5, seed).window(step)
        assert window.fresh.all() == (step % 6 == 0)
        return window.parts[0]

    passes = [part_of(6 * number) for number in range(5)]
    starts = [int(part.inputs[0, 0]) for part in passes]
    assert 0 == starts[0]
    assert 5 == len(set(starts))
    assert all(torch.equal(part.targets, (part.inputs + 1) % 100) for part in passes)
    assert torch.equal(part_of(7).inputs, (passes[1].inputs + 5) % 100)
    assert not torch.equal(part_of(6, seed=2).inputs, passes[1].inputs)
