"""How much is looked at when a network is looked into."""

from __future__ import annotations

LABELS = ("quotes", "brackets", "indent", "line", "number", "name")  # what a parser can mark
INSPECT_CHARS = 20_000  # of the text that units are ranked on
UNIT_CHARS = 2_000  # of the text that one unit is shown over
EFFECT_CHARS = 8_000  # written for each setting of the clamped units
SHOWN_UNITS = 5
LAGS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
HORIZON_SAMPLES = 400  # places of the text whose losses are averaged
CELLS_MINUTES = 0.5  # for each of the cells that are compared
