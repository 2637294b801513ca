"""The file of a lab: its boards, the link between them, and the resources of each board."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from harness.errors import SuiteError, nearest
from harness.suite.shipped import find_suite, shipped_files
from harness.suite.validate import validated
from harness.suite.yamlfile import Source, read_yaml
from harness.types import Params
from harness.types.fields import Duration, Name

__all__ = ["WORKSTATION", "Lab", "LinkChoice", "find_lab", "load_lab", "shipped_labs"]

WORKSTATION = "workstation"
"""The name of the machine that runs the suite, among a lab's boards."""

MAX_BOARDS = 32
_UNITS = {"bit/s": 1.0, "B/s": 8.0}
_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


def _rate(value: object) -> object:
    """Return a written rate (``2 MB/s``, ``16 Mbit/s``) in bits per second. Raises ``ValueError`` for other text."""
    match = (
        re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMG]?)(bit/s|B/s)\s*", value)
        if isinstance(value, str)
        else None
    )
    if match is None:
        raise ValueError(f"{value!r} is no rate; write 2 MB/s (bytes) or 16 Mbit/s (bits)")
    return float(match[1]) * _PREFIXES[match[2]] * _UNITS[match[3]]


Rate = Annotated[float, BeforeValidator(_rate), PlainSerializer(lambda bits: f"{bits:.0f} bit/s")]


class LinkChoice(Params):
    """The link of each board, and of this host, to the switch. Each direction has the full rate."""

    rate: Rate = Field(
        ge=1e3, le=1e11, description="rate of each port, or of the link of each pair: 2 MB/s or 16 Mbit/s"
    )
    rtt: Duration = Field(0.0, le=2.0, description="round-trip time of an empty message")
    shaping: Literal["relay", "tc"] = Field(
        "relay",
        description="relay: a model in user space that delays every byte; tc: the kernel's token bucket",
    )
    ports: Literal["per-link", "shared"] = Field(
        description="each pair of boards has a link of its own, or all of a board's transfers share its port"
    )

    @model_validator(mode="after")
    def _kernel(self) -> LinkChoice:
        if self.shaping == "tc" and self.ports != "shared":
            raise ValueError("shaping: tc shapes a board's port; write ports: shared")
        return self


class Lab(Params):
    """A lab as its file gives it."""

    lab: Name
    boards: tuple[Name, ...] = Field(
        min_length=1, max_length=MAX_BOARDS, description="names of the boards, or their number"
    )
    backend: Literal["agent", "jetson", "raspberry-pi"] = Field(
        "agent", description="backend of the boards in suites: the hardware that they represent"
    )
    link: LinkChoice
    cores: int | None = Field(None, ge=1, le=1024, description="number of cores that a board may use")
    memory_mb: float | None = Field(
        None, ge=64, le=2**20, description="memory that a board may use (10^6 bytes)"
    )
    threads: int = Field(1, ge=1, le=1024, description="number of threads of numerical libraries on a board")
    replay: Literal["off", "solo"] = Field(
        "off",
        description="solo: a part's time is measured alone; the board sleeps for this time and gives the part's real output",
    )
    suite: str | None = Field(
        None, description="suite that `harness lab run` runs: a file beside this one, or a shipped suite"
    )

    @field_validator("boards", mode="before")
    @classmethod
    def _counted(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if not 1 <= value <= MAX_BOARDS:
                raise ValueError(f"a lab has 1 to {MAX_BOARDS} boards")
            return tuple(f"board{index}" for index in range(1, value + 1))
        return value

    @field_validator("boards")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len({*value, WORKSTATION}) != len(value) + 1:
            raise ValueError(f"a board's name is written twice, or is {WORKSTATION!r}")
        return value


def load_lab(path: Path) -> Lab:
    """Read and check a lab. Its ``suite`` becomes a path.

    Raises:
        SuiteError: one line with file:line, key, what is allowed and the nearest match.
    """
    tree, source = read_yaml(path)
    if not isinstance(tree, dict):
        raise SuiteError(f"{source.where()}: a lab is a mapping of keys (lab:, boards:, link: ...)")
    lab: Lab = validated(Lab, tree, source, ())
    return lab if lab.suite is None else lab.model_copy(update={"suite": _suite(lab.suite, path, source)})


def _suite(name: str, path: Path, source: Source) -> str:
    beside = path.parent / name
    try:
        return str(beside.resolve() if beside.is_file() else find_suite(name).resolve())
    except SuiteError as error:
        raise SuiteError(f"{source.where('suite')}: {error}") from None


def shipped_labs() -> dict[str, Path]:
    """Return the labs that come with the harness, by name."""
    files = shipped_files(".yaml")
    return {name.removeprefix("labs/"): path for name, path in files.items() if name.startswith("labs/")}


def find_lab(name: str) -> Path:
    """Return the file of a lab. ``name`` is a path or the name of a shipped lab.

    Raises:
        SuiteError: there is no such file or shipped lab.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_labs()
    word = name.removeprefix("suites/").removeprefix("labs/").removesuffix(".yaml")
    if word in shipped:
        return shipped[word]
    raise SuiteError(f"{name}: no such file or shipped lab; {nearest(word, shipped)}")
