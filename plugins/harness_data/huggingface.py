"""Data sets of the Hugging Face hub in its local cache, and folders with the same layout.

This module downloads nothing. Data that is not in the cache (``HF_HOME``) is reported as missing, with the command
that downloads it. The library ``datasets`` finds the files of a split. Parquet files are then read as those of the data
set ``parquet``, files of other kinds by the library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.errors import SuiteError, first_line
from harness.types import DataInfo, Dataset
from harness_data import parquet
from harness_data.names import name_notes
from harness_data.pictures import absent, facts, looking_at, planned
from harness_data.pixels import decode, read_file
from harness_data.shards import check_complete, check_same_names, find
from harness_data.survey import Survey, channels_of, content_of, notes_of, survey_of
from harness_data.tables import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    Classes,
    ColumnParams,
    column_note,
    column_of,
    count_notes,
    labels_from,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["HubImages", "HuggingFaceParams", "describe", "load"]


class HuggingFaceParams(ColumnParams):
    """The repository or folder of the data, its configuration and revision, and the names of its splits."""

    repo: str = Field(min_length=1, description="NAMESPACE/NAME on the hub, or a folder laid out like it")
    config: str | None = Field(None, description="configuration, if the data set has several")
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
    sources = _sources(params, folder)
    if sources.files is not None:
        return parquet.describe_files(params, _name(params), sources.files, sources.card)
    return _Hub(params, folder).describe(_name(params))


def load(params: HuggingFaceParams, split: str) -> Dataset:
    """Return one split, "train" or "test".

    Raises:
        SuiteError: the data is missing, or a part of it cannot be read.
    """
    folder = _folder(params)
    sources = _sources(params, folder)
    if sources.files is not None:
        return parquet.load_files(params, sources.files, split, sources.card)
    return HubImages(_Hub(params, folder), split)


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


@dataclass(frozen=True)
class _Sources:
    """The Parquet files of both splits, or None if they are of another kind; and the class names of the set's card."""

    files: parquet.Files | None
    card: tuple[str, ...] | None = None


def _sources(params: HuggingFaceParams, folder: Path) -> _Sources:
    """Return the files of the splits as the ``datasets`` library finds them.

    Raises:
        SuiteError: there is no such configuration, or shards are missing.
    """
    if params.path is not None:
        return _Sources(
            {
                "train": find(folder, params.train_split, None, "train_split"),
                "test": find(folder, params.test_split, None, "test_split"),
            }
        )
    import datasets

    with _reading(params, params.train_split):
        builder = datasets.load_dataset_builder(str(folder), name=params.config, download_config=_offline())
    listed = {
        name: [Path(path) for path in paths] for name, paths in (builder.config.data_files or {}).items()
    }
    if any(path.suffix != ".parquet" for paths in listed.values() for path in paths):
        return _Sources(None)
    for paths in listed.values():
        check_complete(paths)
    splits = {"train": params.train_split, "test": params.test_split}
    files = {split: listed.get(name, []) for split, name in splits.items()}
    if not all(
        files.values()
    ):  # a part of a split, such as train[:10%]: the library takes names from one file
        check_same_names([path for paths in listed.values() for path in paths], params)
        return _Sources(None)
    features = builder.info.features or {}
    columns = [name for name in (params.label_column, *LABEL_COLUMNS) if name in features]
    names = getattr(features[columns[0]], "names", None) if columns else None
    return _Sources(files, None if names is None else tuple(map(str, names)))


def _offline() -> Any:
    import datasets

    return datasets.DownloadConfig(local_files_only=True)


class _reading:
    """A ``with`` statement around the library ``datasets``, which passes on all errors of its readers.

    Raises:
        SuiteError: it raised any.
    """

    def __init__(self, params: HuggingFaceParams, split: str) -> None:
        self._where = f"{params.repo}: split {split!r}"

    def __enter__(self) -> None:
        import datasets

        datasets.disable_progress_bars()
        datasets.logging.set_verbosity_error()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception):
            reason = first_line(error.__cause__ or error)
            raise SuiteError(f"{self._where} cannot be read: {reason}") from None


# --- reading ------------------------------------------------------------------------------------


class _Table:
    """A split as the ``datasets`` library reads it. The images stay encoded."""

    def __init__(self, params: HuggingFaceParams, folder: Path, split: str) -> None:
        import datasets

        name = getattr(params, f"{split}_split")
        self.name = where = f"{params.repo}: split {name!r}"
        with _reading(params, name):
            table = datasets.load_dataset(
                str(folder), name=params.config, split=name, download_config=_offline()
            )
        self.columns = table.column_names
        self.image_column = column_of(self.columns, params.image_column, IMAGE_COLUMNS, "image_column", where)
        self.label_column = column_of(self.columns, params.label_column, LABEL_COLUMNS, "label_column", where)
        if not len(table):
            raise SuiteError(f"{where}: no rows")
        if not isinstance(table.features[self.image_column], datasets.Image):
            kind = table.features[self.image_column]
            raise SuiteError(f"{where}: column {self.image_column!r} holds {kind}, not images")
        self._images = table.select_columns([self.image_column]).cast_column(
            self.image_column, datasets.Image(decode=False)
        )
        names = getattr(table.features[self.label_column], "names", None)
        stored = table.select_columns([self.label_column]).with_format("arrow")[:].column(0)
        self.labels = labels_from(where, stored, self.label_column, None if names is None else tuple(names))

    def encoded(self, row: int) -> bytes:
        stored = self._images[row][self.image_column]
        if stored is None or (stored["bytes"] is None and stored["path"] is None):
            raise SuiteError(f"{self.where(row)} has no image")
        return bytes(stored["bytes"]) if stored["bytes"] is not None else read_file(stored["path"])

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """Yield where each picture is, and its bytes."""
        for row in range(len(self)):
            yield self.where(row), self.encoded(row)

    def where(self, row: int) -> str:
        return f"{self.name} row {row}"

    def __len__(self) -> int:
        return len(self.labels.positions)


class _Hub:
    """Both splits as the ``datasets`` library reads them."""

    def __init__(self, params: HuggingFaceParams, folder: Path) -> None:
        self.params = params
        self.tables = {split: _Table(params, folder, split) for split in ("train", "test")}
        self.classes = Classes.of([self.tables["train"].labels])
        self._files = sorted(path for path in folder.rglob("*") if path.is_file())

    def numbers(self, split: str) -> NDArray[np.int64]:
        return self.classes.of_rows(self.tables[split].labels)

    def survey(self) -> Survey:
        train = self.tables["train"]
        params = self.params
        about = [params.config, params.train_split, params.test_split, train.image_column]
        return survey_of(self._files, ["hub", *about], lambda split: self.tables[split].pictures())

    def channels(self) -> int:
        return self.params.shape[0] if self.params.shape else channels_of(self.survey())

    def describe(self, name: str) -> DataInfo:
        """Return the facts of the data."""
        train, pictures, channels = self.tables["train"], self.survey(), self.channels()
        numbers = {split: self.numbers(split) for split in self.tables}
        height, width, _ = decode(train.encoded(0), channels, self.params.crop, train.where(0)).shape
        labels = {split: hashlib.sha256(classes.tobytes()).hexdigest() for split, classes in numbers.items()}
        content = [self.classes.names, labels, pictures.content, content_of(pictures, channels)]
        columns = (
            column_note(train.columns, self.params.label_column, LABEL_COLUMNS, train.label_column),
            column_note(train.columns, self.params.image_column, IMAGE_COLUMNS, train.image_column),
        )
        return facts(
            self.params,
            name=name,
            where=self.params.repo,
            shape=(channels, height, width),
            class_names=self.classes.names,
            sizes={split: len(classes) for split, classes in numbers.items()},
            fingerprint=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
            notes=(
                *notes_of(pictures, channels),
                *columns,
                *count_notes(self.classes.names, numbers),
                *name_notes(self.classes.names),
            ),
        )


class HubImages:
    """The images of one split. Encoded images stay in the library's memory-mapped cache."""

    def __init__(self, hub: _Hub, split: str) -> None:
        self._table = hub.tables[split]
        self.labels = hub.numbers(split)
        self._crop = hub.params.crop
        self._channels = hub.channels()

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return the image as uint8 [height, width, channels]. Raises ``SuiteError`` if it cannot be decoded."""
        return decode(self._table.encoded(index), self._channels, self._crop, self._table.where(index))

    def __len__(self) -> int:
        return len(self.labels)
