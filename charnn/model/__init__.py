"""The network: embedding, stacked recurrent cells, head. State goes in, state comes out."""

import os
import tempfile

from charnn.model.cells import CELLS
from charnn.model.language_model import LanguageModel
from charnn.model.state import State, detach, map_state

__all__ = ["CELLS", "LanguageModel", "State", "detach", "map_state"]

IN_MEMORY = "/dev/shm"  # noqa: S108  # tempfile makes private names in it

# torch asks for a folder for temporary files even where it writes none.
try:
    tempfile.gettempdir()
except FileNotFoundError:
    if os.access(IN_MEMORY, os.W_OK):
        tempfile.tempdir = IN_MEMORY
