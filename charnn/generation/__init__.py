"""From a checkpoint to text, with numpy alone."""

from charnn.engines.float32 import NumpyModel
from charnn.generation.model import Model
from charnn.generation.sampler import Sampler
from charnn.generation.writer import Writing

__all__ = ["Model", "NumpyModel", "Sampler", "Writing"]
