"""Source for the programs of these tests: files to which something happens while written."""

from __future__ import annotations

WRAPPED = """
class Wrapped:
    def __init__(self, file):
        self.file = file
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self.file.close()
    def __getattr__(self, name):
        return getattr(self.file, name)

class InHalves(Wrapped):
    # Written in two halves, so that it can be cut in its middle; before_half comes before each.
    def write(self, data):
        for half in (data[: len(data) // 2], data[len(data) // 2 :]):
            self.before_half()
            self.file.write(half)
            self.file.flush()
"""
