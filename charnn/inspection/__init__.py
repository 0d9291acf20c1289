"""Analysis of a trained network: hidden units, effects of clamping, memory horizon; the lab."""
