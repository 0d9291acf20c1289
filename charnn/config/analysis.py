"""Defaults of the commands that look into a network."""

from __future__ import annotations

LABELS = ("quotes", "brackets", "indent", "line", "number", "name")  # what a parser can mark
EFFECT_CHARS = 8_000  # characters sampled for each setting of the clamped units
SHOWN_UNITS = 5
LAGS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
HORIZON_SAMPLES = 400  # positions of the text whose losses are averaged
