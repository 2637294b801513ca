"""Files of timm's pretrained weights: from the cache, or by a download that is known to be possible."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from harness.errors import SuiteError, first_line

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

__all__ = ["PATIENCE_S", "hub_file", "url_file"]

PATIENCE_S = 3.0
"""Seconds within which a server must answer. The hub's client alone tries for over a minute."""

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


def url_file(name: str, cfg: PretrainedCfg, patience_s: float = PATIENCE_S) -> Path:
    """Return the file with weights that are not on the hub but at ``cfg.url``, from torch's cache or by a download.

    Raises:
        SuiteError: the cache lacks it, and the server does not answer within ``patience_s`` seconds, or refuses.
    """
    from torch import hub

    url = str(cfg.url)
    path = Path(hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    if path.is_file():
        return path

    def ask() -> str:
        with urlopen(Request(url, method="HEAD"), timeout=patience_s):
            return url

    def absent(why: str) -> SuiteError:
        return SuiteError(
            f"weights of {name!r}: {why}; give a local file (weights: FILE.safetensors), or fill the cache "
            f"({path.parent}, TORCH_HOME) where there is a network: {url}"
        )

    _, why = _within(patience_s, ask, urlsplit(url).netloc)
    if why:
        raise absent(why)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        hub.download_url_to_file(url, str(path), progress=False)
    except OSError as error:
        raise absent(f"the download failed: {first_line(error, kind=True)}") from error
    return path


def _offered(repo: str, revision: str | None, file: str | None, patience_s: float) -> tuple[str, str]:
    """Return the name of the weights' file on the hub, or why there is none, within ``patience_s`` seconds."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    def ask() -> str:
        for candidate in (file,) if file else _FILES:
            try:
                get_hf_file_metadata(hf_hub_url(repo, candidate, revision=revision), timeout=patience_s)
            except EntryNotFoundError:
                continue
            return candidate
        raise FileNotFoundError(f"{repo} has no file {' or '.join(_FILES)}")

    return _within(patience_s, ask, constants.ENDPOINT)


def _within(patience_s: float, ask: Callable[[], str], server: str) -> tuple[str, str]:
    """Return the answer of ``ask``, or why there is none, within ``patience_s`` seconds.

    A thread asks, because looking up an address has no limit of time.
    """
    outcome: list[tuple[str, str]] = []

    def run() -> None:
        try:
            outcome.append((ask(), ""))
        except Exception as error:  # noqa: BLE001 - a client raises its HTTP library's own errors
            outcome.append(("", f"{server}: {first_line(error, kind=True)}"))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(patience_s)
    return outcome[0] if outcome else ("", f"{server} does not answer within {patience_s:g} s")


def _absent(name: str, repo: str, why: str) -> SuiteError:
    return SuiteError(
        f"weights of {name!r} from the hub: {why}; give a local file (weights: FILE.safetensors), or fill the cache "
        f"(HF_HOME) where there is a network: hf download {repo}"
    )
