"""Files of pretrained weights of the Hugging Face hub: from the cache, or by a download that is known to be possible."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import SuiteError, first_line

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

__all__ = ["PATIENCE_S", "hub_file"]

PATIENCE_S = 3.0
"""Seconds within which the hub must answer. Its client alone tries for over a minute."""

_FILES = ("model.safetensors", "pytorch_model.bin")
"""The files in which timm stores weights on the hub, the preferred one first."""


def hub_file(name: str, cfg: PretrainedCfg, patience_s: float = PATIENCE_S) -> Path:
    """Return the file with the weights ``cfg`` of model ``name``. It is downloaded if the hub's cache lacks it.

    Raises:
        SuiteError: the cache lacks it, and the hub does not answer within ``patience_s`` seconds, refuses, or is off.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    repo, _, revision = str(cfg.hf_hub_id).partition("@")
    for file in (cfg.hf_hub_filename,) if cfg.hf_hub_filename else _FILES:
        path = try_to_load_from_cache(repo, file, revision=revision or None)
        if isinstance(path, str):
            return Path(path)
    if constants.HF_HUB_OFFLINE:
        raise _absent(name, repo, "HF_HUB_OFFLINE is set, and the cache does not have them")
    file, why = _offered(repo, revision or None, cfg.hf_hub_filename, patience_s)
    if why:
        raise _absent(name, repo, why)
    try:
        return Path(hf_hub_download(repo, file, revision=revision or None))
    except Exception as error:  # the client raises its HTTP library's own errors
        raise _absent(name, repo, f"the download failed: {first_line(error, kind=True)}") from error


def _offered(repo: str, revision: str | None, file: str | None, patience_s: float) -> tuple[str, str]:
    """Return the name of the weights' file on the hub, or why there is none, within ``patience_s`` seconds.

    A thread asks, because looking up the hub's address has no limit of time.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    outcome: list[tuple[str, str]] = []

    def ask() -> None:
        for candidate in (file,) if file else _FILES:
            try:
                get_hf_file_metadata(hf_hub_url(repo, candidate, revision=revision), timeout=patience_s)
            except EntryNotFoundError:
                continue
            except Exception as error:  # noqa: BLE001 - the client raises its HTTP library's own errors
                outcome.append(("", f"{constants.ENDPOINT}: {first_line(error, kind=True)}"))
            else:
                outcome.append((candidate, ""))
            return
        outcome.append(("", f"{constants.ENDPOINT} has no weights there"))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience_s)
    return outcome[0] if outcome else ("", f"{constants.ENDPOINT} does not answer within {patience_s:g} s")


def _absent(name: str, repo: str, why: str) -> SuiteError:
    return SuiteError(
        f"weights of {name!r} from the hub: {why}; give a local file (weights: FILE.safetensors), or fill the cache "
        f"(HF_HOME) where there is a network: hf download {repo}"
    )
