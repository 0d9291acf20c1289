"""Generates text from a checkpoint, without torch."""

from charnn.generation.model import Model
from charnn.generation.sampler import Sampler
from charnn.generation.writer import Writing

__all__ = ["Model", "Sampler", "Writing"]
