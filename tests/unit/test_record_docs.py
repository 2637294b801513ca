"""Tests of docs/results.md: it lists the keys of a record as the types do. Run this file to write the lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from harness.types.figures import EnergyReading
from harness.types.record import Record

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
BEGIN, END = "<!-- {name}: written by tests/unit/test_record_docs.py -->\n\n", "\n\n<!-- end -->"


def inner(annotation: Any) -> tuple[str, type[BaseModel]] | None:
    """Return the model inside a field's type, and what stands for an item of it in a path; ``None``: it has none."""
    if get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "", annotation
    suffix = "[]" if get_origin(annotation) is list else ".NAME" if get_origin(annotation) is Mapping else ""
    found = [
        (suffix + own, model)
        for item in get_args(annotation)
        if (nested := inner(item))
        for own, model in [nested]
    ]
    return found[0] if found else None


def rows(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, description) of every key of a block, those of blocks inside it after it."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{field.alias or name}", field.description or ""
        nested = inner(field.annotation)
        if nested is not None:
            yield from rows(nested[1], f"{prefix}{name}{nested[0]}.")


def table(lines: Iterator[tuple[str, str]]) -> str:
    return "\n".join(["| key | contents |", "|---|---|", *(f"| `{key}` | {text} |" for key, text in lines)])


def keys_of_a_record() -> str:
    top = ((field.alias or name, field.description or "") for name, field in Record.model_fields.items())
    texts = [table(top)]
    for name, field in Record.model_fields.items():
        nested = inner(field.annotation)
        if nested is not None and nested[1] is not EnergyReading:
            texts += [f"### `{name}`", (nested[1].__doc__ or "").strip(), table(rows(nested[1]))]
    return "\n\n".join(texts)


TABLES = {"keys of a record": keys_of_a_record, "keys of a reading": lambda: table(rows(EnergyReading))}


def written(text: str) -> str:
    """Return the page with its lists as the types describe them."""
    for name, make in TABLES.items():
        begin = BEGIN.format(name=name)
        head, rest = text.split(begin)
        text = head + begin + make() + END + rest.split(END, 1)[1]
    return text


def test_every_key_has_a_description() -> None:
    assert [key for key, text in rows(Record) if not text] == []


def test_the_page_lists_the_keys_of_the_types_and_no_others() -> None:
    text = PAGE.read_text()
    assert text == written(text), "run `python tests/unit/test_record_docs.py`"


def test_a_list_names_blocks_within_blocks() -> None:
    assert {"device.devices[].parts", "network.parts.NAME.link", "accuracy.missing.levels[].worst"} <= dict(
        rows(Record)
    ).keys()


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
