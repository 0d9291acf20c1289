"""Scores texts: surprisal, comparison of models, dynamic evaluation, baselines."""
