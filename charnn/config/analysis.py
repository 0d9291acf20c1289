"""How much is looked at when a network is looked into."""

from __future__ import annotations

LABELS = ("quotes", "brackets", "indent", "line", "number", "name")  # what a parser can mark
INSPECT_CHARS = 20_000  # of the text that units are ranked on
UNIT_CHARS = 2_000  # of the text that one unit is shown over
EFFECT_CHARS = 8_000  # written for each setting of the clamped units
SHOWN_UNITS = 5
LAGS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
HORIZON_SAMPLES = 400  # places of the text whose losses are averaged
FEWEST_PLACES = 50  # of a model of lines, so far into their lines, for a lag to be measured
MOST_OF_A_LINE = 512  # tokens; places further into a line are not drawn
CELLS_MINUTES = 0.5  # for each of the cells that are compared

# What a report looks at, so that a network of three layers of 256 takes about a minute.
REPORT_HELD_OUT = 50_000  # tokens of the validation split, from its beginning
REPORT_LINES = 20_000  # the same for a model of lines, which is read line by line
REPORT_TRAIN = 1_000_000  # tokens of the training text that n-grams are counted on, the latest
REPORT_UNITS = 12_000  # tokens that units are ranked on
REPORT_PLACES = 48  # of the text, whose losses are averaged to see how far back matters
REPORT_GRADIENTS = 12  # of these, for gradients
REPORT_JACOBIANS = 2  # of these, for singular values
REPORT_PASSAGE = 1_200  # characters
REPORT_UNIT_PASSAGE = 420  # characters for each label
REPORT_TEMPERATURES = (0.5, 0.8, 1.1)
REPORT_SAMPLE = {"char": 600, "byte": 600, "sentencepiece": 180}  # tokens
REPORT_SAMPLE_LINES = 12
REPORT_SEED = 1
