"""What a text costs a model: surprisal, comparison, adaptation, baselines."""
