"""What a network does: units, effects, memory, the lab."""
