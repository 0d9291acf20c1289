"""From ids to a checkpoint: batches, recipe, trainer."""
