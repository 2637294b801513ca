"""Small Parquet files of pictures and labels, for tests of what is read from them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.errors import SuiteError
from harness.types import DataInfo
from harness_data import parquet


def png(value: int) -> bytes:
    """Return a PNG of 4 x 4 pixels of one value."""
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write(
    path: Path, labels: Any, names: list[str] | None = None, first: int = 0, label: str = "label", **more: Any
) -> Path:
    """Write a Parquet file whose pictures have the values ``first``, ``first`` + 1 ...; ``names`` are declared as the hub does."""
    column = labels if isinstance(labels, pa.Array) else pa.array(labels)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": png(first + index), "path": None} for index in range(len(column))], kind)
    table = pa.table({"image": images, label: column, **more})
    if names is not None:
        features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def pair(folder: Path, train: Any, test: Any = None, names: list[str] | None = None) -> Path:
    """Write train.parquet and test.parquet with these labels, no two pictures alike. Return the folder."""
    write(folder / "train.parquet", train, names)
    write(folder / "test.parquet", train if test is None else test, names, first=100)
    return folder


def describe(folder: Path, **params: Any) -> DataInfo:
    """Describe the folder as the data set parquet."""
    return parquet.describe(parquet.ParquetParams(path=str(folder), **params))


def labels(folder: Path, split: str = "train", **params: Any) -> list[int]:
    """Return the class of each picture of a split."""
    images = parquet.load(parquet.ParquetParams(path=str(folder), **params), split)
    numbers: list[int] = images.labels.tolist()
    return numbers


def refused(folder: Path, message: str, **params: Any) -> None:
    """Check that the folder is refused in one line that matches ``message``."""
    with pytest.raises(SuiteError, match=message) as caught:
        describe(folder, **params)
    assert "\n" not in str(caught.value)
