"""The folder that an exporter writes, whole or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from charnn.errors import FileError
from charnn.tensor_file import file_errors, replacing_folder


@contextmanager
def exported_folder(output: Path, names: Collection[str], kind: str) -> Iterator[Path]:
    """Makes a temporary folder that replaces `output` when the block ends without an error.

    `names` are the files of an export of this `kind`: a folder with only these may be replaced.

    Raises:
        FileError: the folder cannot be written, or `output` has files with other names.
    """
    if output.exists():
        here = {path.name for path in output.iterdir()} if output.is_dir() else {output.name}
        if here - set(names):
            raise FileError(f"{output} has files that are not of {kind}: give another -o")
    with file_errors("create", output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(output) as folder:
        yield folder
