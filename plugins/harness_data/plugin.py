"""Data sets: embedded, in files, on the Hugging Face hub, and synthetic."""

from __future__ import annotations

from collections.abc import Iterable

from harness.hookspecs import hookimpl
from harness.types import DatasetEntry
from harness_data import digits, huggingface, imagefolder, parquet, synthetic

__all__ = ["harness_datasets"]


@hookimpl
def harness_datasets() -> Iterable[DatasetEntry]:
    """Yield the data sets ``digits``, ``parquet``, ``imagefolder``, ``huggingface`` and ``synthetic``."""
    yield DatasetEntry(
        name="digits",
        summary="scikit-learn's handwritten digits, embedded: 1,437 + 360 grey images of 8 x 8 pixels",
        describe=digits.describe,
        load=digits.load,
        requires=("sklearn",),
        extra="bench",
    )
    yield DatasetEntry(
        name="parquet",
        summary="Parquet files with encoded images and labels, held in memory",
        params=parquet.ParquetParams,
        describe=parquet.describe,
        load=parquet.load,
        source="path",
        reading=frozenset({"crop"}),
        requires=("pyarrow", "PIL"),
        extra="bench",
    )
    yield DatasetEntry(
        name="imagefolder",
        summary="image files in train/CLASS and test/CLASS",
        params=imagefolder.ImageFolderParams,
        describe=imagefolder.describe,
        load=imagefolder.load,
        source="path",
        reading=frozenset({"crop"}),
        requires=("PIL",),
        extra="bench",
    )
    yield DatasetEntry(
        name="huggingface",
        summary="a data set of the Hugging Face hub that is in the local cache, or a folder of its files",
        params=huggingface.HuggingFaceParams,
        describe=huggingface.describe,
        load=huggingface.load,
        source="repo",
        reading=frozenset({"crop"}),
        requires=("pyarrow", "PIL"),
        extra="bench",
    )
    yield DatasetEntry(
        name="synthetic",
        summary="synthetic images, one pattern per class plus noise: for suites about latency",
        params=synthetic.SyntheticParams,
        describe=synthetic.describe,
        load=synthetic.load,
    )
