"""The network: embedding, stacked recurrent cells, head. State goes in, state comes out."""

from charnn.model.cells import CELLS
from charnn.model.language_model import LanguageModel
from charnn.model.state import State, detach, map_state

__all__ = ["CELLS", "LanguageModel", "State", "detach", "map_state"]
