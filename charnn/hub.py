"""Models of the Hugging Face Hub, by names such as ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION``.

The package huggingface_hub downloads files into its cache and reads them from there without a
network. Nothing in a repository is executed.
"""

from __future__ import annotations

import re
from pathlib import Path

from charnn.errors import ConfigError, DamagedFile, FileError, needed
from charnn.tensor_file import file_errors, parse_json, read_header, regular
from charnn.version import __version__

PREFIX = "hf:"
MODEL, CONFIG = "model.safetensors", "config.json"
MODEL_TYPE = "charnn"  # in config.json
COMMIT = re.compile("[0-9a-f]{40}")
MAX_CONFIG_BYTES = 1 << 20
NAME = re.compile(
    r"hf:(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w-][\w.-]*(/[\w-][\w.-]*)*))?",
    re.ASCII,
)


def is_hub_name(model: str) -> bool:
    """Tells whether MODEL names a repository of the Hub."""
    return model.startswith(PREFIX)


def download(model: str) -> Path:
    """Returns the model file of a repository, in the cache of huggingface_hub.

    The revision, by default the newest, is resolved to a commit, from which both files are read.

    Raises:
        MissingPackage: huggingface_hub is not installed.
        ConfigError: `model` is not of the form of a name.
        FileError: there is no such repository or revision, no charnn model is in it, or there is
            neither a network nor a copy in the cache.
        DamagedFile: the files of the repository do not belong together.
    """
    parts = NAME.fullmatch(model)
    if not parts:
        raise _wrong_name(model)
    repository, revision = parts["repository"], parts["revision"]
    with needed(model):
        from huggingface_hub import errors
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it has no __all__
    try:
        validate_repo_id(repository)
    except errors.HFValidationError:
        raise _wrong_name(model) from None
    cached_only = not _answers(model, repository, revision)
    config = _fetch(model, repository, CONFIG, revision, cached_only)
    digest = _digest_in(config, model)
    path = _fetch(model, repository, MODEL, commit_of(config), cached_only)
    with file_errors("read", path), open(path, "rb", opener=regular) as file:
        found = read_header(file, path).metadata.get("digest")
    if found != digest:
        raise DamagedFile(
            f"{model} is damaged: {CONFIG} belongs to another model than {MODEL}; ask its owner to "
            "upload both again"
        )
    return path


def _wrong_name(model: str) -> ConfigError:
    return ConfigError(
        f"{model[:80]!r} names no model of the Hub: write hf:OWNER/NAME, or "
        "hf:OWNER/NAME@REVISION with a commit, branch or tag"
    )


def commit_of(path: Path) -> str:
    """Returns the commit of a file in the cache of huggingface_hub."""
    return path.parent.name


def name_of(path: Path) -> str | None:
    """Returns the name of the repository of a file in the cache; None for any other file."""
    snapshots = path.parent.parent
    if path.name != MODEL or snapshots.name != "snapshots":
        return None
    return snapshots.parent.name.rpartition("--")[2]


def _answers(model: str, repository: str, revision: str | None) -> bool:
    """Asks the Hub for a revision; tells whether it answered, or the cache has this commit.

    Raises:
        FileError: the Hub answers that there is no such repository, revision or file.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if revision and COMMIT.fullmatch(revision):
        known = try_to_load_from_cache(repository, CONFIG, revision=revision)
        if isinstance(known, str):
            return True
    try:  # first, since without a network hf_hub_download retries for half a minute
        get_hf_file_metadata(hf_hub_url(repository, CONFIG, revision=revision))
    except errors.GatedRepoError:
        why = f"its owner grants access: ask on the page of {repository}, then run 'hf auth login'"
    except errors.RevisionNotFoundError:
        why = f"{repository} has no revision {revision!r}: leave out @{revision} for the newest"
    except errors.RepositoryNotFoundError:
        why = "there is no such repository: check the name, or 'hf auth login' for a private one"
    except errors.EntryNotFoundError:
        why = _missing(CONFIG)
    except Exception:  # errors of its HTTP library are not huggingface_hub's
        return False
    else:
        return True
    raise FileError(f"cannot read {model}: {why}")


def _fetch(model: str, repository: str, file: str, revision: str | None, cached_only: bool) -> Path:
    """Returns a file of a repository, from the cache if the cache has it."""
    from huggingface_hub import errors, hf_hub_download
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # it has no __all__
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    silent = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        return Path(
            hf_hub_download(
                repository,
                file,
                revision=revision,
                library_name="charnn",
                library_version=__version__,
                local_files_only=cached_only,
            )
        )
    except errors.LocalEntryNotFoundError:
        why = "no answer from the Hub, and no copy in the cache: check the network, or give a file"
    except errors.EntryNotFoundError:
        why = _missing(file)
    except Exception as error:  # as in `_answers`
        reason = str(error).partition("\n")[0][:200]
        why = f"the download failed ({reason or type(error).__name__}): try again"
    finally:
        if not silent:
            enable_progress_bars()
    raise FileError(f"cannot read {model}: {why}")


def _missing(file: str) -> str:
    return (
        f"the repository has no charnn model, {file} is missing: its owner makes one with "
        "'charnn export --to hub'"
    )


def _digest_in(path: Path, model: str) -> str:
    """Returns the digest of the model that config.json describes."""
    with file_errors("read", path), open(path, "rb", opener=regular) as file:
        text = file.read(MAX_CONFIG_BYTES)
    try:
        config = parse_json(text.decode())
    except ValueError:
        config = None
    found = config if isinstance(config, dict) else {}
    digest = found.get("digest")
    if found.get("model_type") != MODEL_TYPE or not isinstance(digest, str):
        raise FileError(
            f"cannot read {model}: the repository has no charnn model, {CONFIG} describes another "
            "kind; charnn reads what 'charnn export --to hub' writes"
        )
    return digest
