"""Data sets of the Hugging Face hub in its local cache, and folders with the same layout.

This module downloads nothing. Data that is not in the cache (``HF_HOME``) is reported as missing, with the command
that downloads it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.errors import SuiteError, first_line
from harness.types import DataInfo, Dataset
from harness_data import parquet
from harness_data.pictures import absent, codec, decode, facts, listing_hash, looking_at, planned
from harness_data.tables import IMAGE_COLUMNS, LABEL_COLUMNS, ColumnParams, column_of, numbers_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["HubImages", "HuggingFaceParams", "describe", "load"]


class HuggingFaceParams(ColumnParams):
    """The repository or folder of the data, its configuration and revision, and the names of its splits."""

    repo: str = Field(min_length=1, description="NAMESPACE/NAME on the hub, or a folder laid out like it")
    config: str | None = Field(None, description="configuration, where the data set has several")
    revision: str | None = Field(None, description="branch, tag or commit (default: main)")
    train_split: str = Field("train", min_length=1, description="the split to train on")
    test_split: str = Field("test", min_length=1, description="the split to test on")
    path: str | None = Field(
        None, min_length=1, description="folder with the splits' Parquet files, read in place of the hub"
    )


def describe(params: HuggingFaceParams) -> DataInfo:
    """Return the facts of the data. If it is not here, return the facts that the suite gives, and ``missing``.

    Raises:
        SuiteError: the data is here and cannot be read, or has no such configuration, split or column.
    """
    try:
        folder = _folder(params)
    except _Missing as missing:
        return planned(params, name=_name(params), missing=str(missing))
    if params.path is not None:
        return parquet.describe_files(params, _name(params), _files(params, folder))
    splits = {split: _Table(params, folder, split) for split in ("train", "test")}
    names, _ = splits["train"].classes()
    train = splits["train"]
    pixels = decode(train.encoded(0), _channels(params), params.crop, train.where(0))
    height, width, channels = pixels.shape
    sizes = {split: len(table) for split, table in splits.items()}
    content: list[Any] = [_version(folder), params.config, params.train_split, params.test_split]
    content += [train.image_column, train.label_column, sizes]
    return facts(
        params,
        name=_name(params),
        where=params.repo,
        shape=(channels, height, width),
        class_names=names,
        sizes=sizes,
        fingerprint=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        notes=(f"images stored as {codec(train.encoded(0))}",),
    )


def load(params: HuggingFaceParams, split: str) -> Dataset:
    """Return one split, "train" or "test".

    Raises:
        SuiteError: the data is missing, or a part of it cannot be read.
    """
    folder = _folder(params)
    if params.path is not None:
        return parquet.load_files(params, _files(params, folder), split)
    return HubImages(params, folder, split)


# --- finding ------------------------------------------------------------------------------------


def _name(params: HuggingFaceParams) -> str:
    with looking_at(params.repo) as local:
        name = local.resolve().name if local.is_dir() else params.repo
    return f"{name}:{params.config}" if params.config else name


class _Missing(SuiteError):
    """The data is not here. The message says how to get it."""


def _folder(params: HuggingFaceParams) -> Path:
    """Return ``path`` if given, else the folder that ``repo`` names, else its snapshot in the hub's cache."""
    lacking = absent("pyarrow", "PIL")
    if lacking is not None:
        raise _Missing(lacking)
    if params.path is not None:
        with looking_at(params.path) as folder:
            if not folder.exists():
                raise _Missing(f"{folder}: not found; put the splits' Parquet files there, or change path")
            return folder
    lacking = absent("datasets", "huggingface_hub")
    if lacking is not None:
        raise _Missing(f"{params.repo}: {lacking} (or give path, a folder with the Parquet files)")
    with looking_at(params.repo) as local:
        return local.resolve() if local.is_dir() else _snapshot(params.repo, params.revision)


def _snapshot(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        fetch = f"hf download --repo-type dataset {repo}" + (f" --revision {revision}" if revision else "")
        raise _Missing(f"{repo}: not in the Hugging Face cache; download it once with: {fetch}") from None
    except HFValidationError as error:
        reason = first_line(error)
        raise SuiteError(f"repo: {repo!r} is no folder here and no name on the hub: {reason}") from None


def _version(folder: Path) -> str:
    """Return the commit of a snapshot in the hub's cache, or for any other folder a hash of its listing."""
    if folder.parent.name == "snapshots":
        return folder.name
    return listing_hash(folder, sorted(path for path in folder.rglob("*") if path.is_file()))


def _files(params: HuggingFaceParams, folder: Path) -> parquet.Files:
    return {
        "train": parquet.find(folder, params.train_split, None, "train_split"),
        "test": parquet.find(folder, params.test_split, None, "test_split"),
    }


def _channels(params: HuggingFaceParams) -> int | None:
    return params.shape[0] if params.shape else None


# --- reading ------------------------------------------------------------------------------------


class _Table:
    """A split as the ``datasets`` library reads it. The images stay encoded."""

    def __init__(self, params: HuggingFaceParams, folder: Path, split: str) -> None:
        import datasets

        self.name = f"{params.repo}: split {getattr(params, f'{split}_split')!r}"
        table = _read(params, folder, getattr(params, f"{split}_split"))
        where = self.name
        self.image_column = column_of(
            table.column_names, params.image_column, IMAGE_COLUMNS, "image_column", where
        )
        self.label_column = column_of(
            table.column_names, params.label_column, LABEL_COLUMNS, "label_column", where
        )
        if not len(table):
            raise SuiteError(f"{where}: no rows")
        if not isinstance(table.features[self.image_column], datasets.Image):
            kind = table.features[self.image_column]
            raise SuiteError(f"{where}: column {self.image_column!r} holds {kind}, not images")
        self._images = table.select_columns([self.image_column]).cast_column(
            self.image_column, datasets.Image(decode=False)
        )
        self._label = table.features[self.label_column]
        self.values = self._labels(table)

    def _labels(self, table: Any) -> NDArray[Any]:
        import numpy as np

        labels = list(table[self.label_column])
        empty = next((row for row, value in enumerate(labels) if value is None), None)
        if empty is not None:
            raise SuiteError(f"{self.where(empty)} has no label (column {self.label_column!r})")
        if not isinstance(labels[0], int | str):
            raise SuiteError(f"{self.name}: column {self.label_column!r} holds {self._label}, not labels")
        values = np.asarray(labels)
        return values.astype(np.int64) if values.dtype.kind in "iu" else values

    def classes(self) -> tuple[tuple[str, ...], NDArray[Any] | None]:
        """Return the class names, and the label values that they stand for.

        The values are ``None`` if the data set declares the names. Then labels are positions in the names.
        """

        import numpy as np

        names = getattr(self._label, "names", None)
        if names is not None:
            return tuple(names), None
        known = np.unique(self.values)
        return tuple(str(value) for value in known), known

    def encoded(self, row: int) -> bytes:
        stored = self._images[row][self.image_column]
        if stored is None or (stored["bytes"] is None and stored["path"] is None):
            raise SuiteError(f"{self.where(row)} has no image")
        if stored["bytes"] is not None:
            return bytes(stored["bytes"])
        try:
            return Path(stored["path"]).read_bytes()
        except OSError as error:
            raise SuiteError(f"{self.where(row)}: {first_line(error)}") from None

    def where(self, row: int) -> str:
        return f"{self.name} row {row}"

    def __len__(self) -> int:
        return len(self.values)


def _read(params: HuggingFaceParams, folder: Path, split: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        return datasets.load_dataset(
            str(folder),
            name=params.config,
            split=split,
            download_config=datasets.DownloadConfig(local_files_only=True),
        )
    except Exception as error:  # noqa: BLE001 - the library raises all errors of its readers
        reason = first_line(error.__cause__ or error)
        raise SuiteError(f"{params.repo}: split {split!r} cannot be read: {reason}") from None


class HubImages:
    """The images of one split. Encoded images stay in the library's memory-mapped cache."""

    def __init__(self, params: HuggingFaceParams, folder: Path, split: str) -> None:
        train = _Table(params, folder, "train")
        names, known = train.classes()
        self._table = train if split == "train" else _Table(params, folder, split)
        self.labels = numbers_of(self._table.name, self._table.values, names, known)
        self._crop = params.crop
        self._channels = decode(train.encoded(0), _channels(params), params.crop, train.where(0)).shape[2]

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return the image as uint8 [height, width, channels]. Raises ``SuiteError`` if it cannot be decoded."""
        return decode(self._table.encoded(index), self._channels, self._crop, self._table.where(index))

    def __len__(self) -> int:
        return len(self.labels)
