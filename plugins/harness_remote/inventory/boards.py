"""Describe, probe and open boards of the inventory as devices of a suite.

A board's description is kept in a file, so that a suite can be planned while the board is off.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, TypeAdapter

from harness.errors import BoardLost, DeviceError, HarnessError, StorageError, SuiteError, UnknownEntry
from harness.machine.meters import Meters
from harness.plugins import load_plugins
from harness.store.files import read_regular, write_atomically
from harness.suite.validate import validated
from harness.types import Device, DeviceInfo, DeviceLink, DeviceSpec, MeterInfo, MeterUse, Params, Unavailable
from harness.types.fields import Duration, Name
from harness_remote.inventory.inventory import Board, Inventory
from harness_remote.wire.board import BoardDescription
from harness_remote.wire.secrets import Credentials

__all__ = [
    "BoardParams",
    "GpuBoardParams",
    "Patience",
    "ask_board",
    "backend_of",
    "describe",
    "info_of",
    "open_board",
    "probe",
]

KEPT = (
    "harness",
    "soc",
    "product",
    "arch",
    "os",
    "kernel",
    "python",
    "cpu_capability",
    "governor",
    "onnxruntime",
    "jetpack",
)
"""The facts of a board that its records contain. Values that change by themselves, like temperatures, are not here."""

_MOST_KEPT_BYTES = 2**20

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """Time limits in seconds for a board to answer.

    ``probe_s``: in a probe of all boards. ``reach_s``: when one board is described. ``describe_s``: for the
    description, for which the board reads its sensors.
    """

    probe_s: float = 1.0
    reach_s: float = 3.0
    describe_s: float = 15.0


PATIENCE = Patience()


class BoardParams(Params):
    """A board of the inventory (devices.yaml; `harness devices add`)."""

    board: Name | None = Field(
        None, description="name of the board in the inventory, if the suite uses another name"
    )
    detached: bool = Field(
        False,
        description="close the connection while the board measures, so that its energy contains no traffic of Wi-Fi",
    )
    answer_within: Duration = Field(10.0, gt=0, description="time limit of a call that asks for no work")
    lost_after: Duration = Field(
        30.0, gt=0, description="time without any answer after which the board is lost"
    )
    lease_wait: Duration = Field(90.0, description="time to wait until another's lease ends")
    work_within: Duration = Field(
        600.0, gt=0, description="time limit for loading a part, or for inference on one piece of the images"
    )


class GpuBoardParams(BoardParams):
    """A board whose runtime may compute on its GPU."""

    device: Literal["cpu", "cuda", "tensorrt"] = Field(
        "cpu", description="the device of the board on which ONNX Runtime computes"
    )


def probe(backend: str, patience: Patience = PATIENCE) -> Iterable[DeviceInfo | Unavailable]:
    """Return every board of the inventory with this backend. All are queried at the same time."""
    try:
        inventory = Inventory.load()
    except (StorageError, SuiteError) as error:
        return [Unavailable(name=backend, reason=str(error))]
    names = [name for name, board in inventory.boards.items() if board.backend == backend]
    if not names:
        return [
            Unavailable(
                name=backend,
                reason=f"no such board in {inventory.path}",
                fix="`harness devices setup NAME --ssh USER@HOST` installs an agent and adds it",
            )
        ]

    def ask(name: str) -> DeviceInfo | Unavailable:
        board = inventory.boards[name]
        try:
            described = ask_board(name, inventory.credentials(name), patience.probe_s, patience)
            return info_of(name, backend, board, described)
        except (HarnessError, ValueError) as error:
            return Unavailable(name=name, reason=str(error), fix=f"`harness devices check {name}` shows more")

    with ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(ask, names))


def describe(spec: DeviceSpec, patience: Patience = PATIENCE) -> DeviceInfo | Unavailable:
    """Return the description of a suite's board: its answer now, or its last answer if it is lost.

    Raises:
        ValueError: the inventory has no such board, or the backend does not fit it.
    """
    name, board, inventory = _find(spec)
    kept = inventory.path.parent / ".boards" / f"{name}.json"
    assert isinstance(spec.params, BoardParams)
    try:
        credentials = inventory.credentials(name)
        described = ask_board(name, credentials, min(patience.reach_s, spec.params.answer_within), patience)
        _keep(kept, credentials, described)
    except BoardLost as error:
        known = _kept(kept, credentials)
        if known is None:
            return Unavailable(
                name=spec.name, reason=str(error), fix=f"`harness devices check {name}` shows more"
            )
        described, when = known
        _LOG.warning("%s; planned as it was on %s, and its cells will be tried", error, when)
    except (DeviceError, SuiteError) as error:
        return Unavailable(name=spec.name, reason=str(error))
    external = _external(inventory, name)
    return info_of(spec.name, spec.backend, board, described, _computes_on(spec.params), external)


def info_of(
    name: str,
    backend: str,
    board: Board,
    described: BoardDescription,
    computes_on: str = "cpu",
    external: Sequence[MeterUse] = (),
) -> DeviceInfo:
    """Return a board as a :class:`DeviceInfo`.

    Raises:
        ValueError: the backend does not fit the board, or the board has no such runtime.
    """
    if not board.emulated and (wrong := _not_of(backend, described)):
        raise ValueError(f"{name} is {described.model}: {wrong}")
    runtime = described.onnxruntime
    if "error" in runtime:
        raise ValueError(f"{name}: {runtime['error']}: install onnxruntime in its agent's environment")
    wanted = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}.get(computes_on)
    if wanted is not None and wanted not in runtime.get("providers", ()):
        raise ValueError(
            f"{name}: device: {computes_on}: its ONNX Runtime {runtime.get('version')} has "
            f"{', '.join(runtime.get('providers', ()))} only; docs/hardware.md says which build has more"
        )
    facts = {key: getattr(described, key) for key in KEPT}
    budget, link = board.memory_budget_mb, None
    if board.link is not None and board.link.rate_mbps is not None:
        link = DeviceLink.of(board.link.model_dump(mode="json"))
    return DeviceInfo(
        name=name,
        backend=backend,
        model=described.model,
        kind="cpu" if computes_on == "cpu" else "cuda",
        cores=described.cores or 0,
        memory_bytes=described.memory_bytes,
        emulated=board.emulated,
        machine_id=described.machine_id,
        environment={key: fact for key, fact in facts.items() if fact not in (None, {}, [], ())},
        formats=("onnx",),
        link=link,
        weight_budget_bytes=None if budget is None else int(budget * 1e6),
        meters=tuple(MeterInfo(**meter) for meter in described.meters),
        external=tuple(external),
        signals=tuple(sorted({signal for state in described.state.values() for signal in state})),
        details={"labels": list(board.labels)},
    )


def open_board(spec: DeviceSpec) -> Device:
    """Acquire the board and open it.

    Raises:
        BoardLost: it does not answer, or someone else holds it.
        DeviceError: it answers, but cannot be used.
    """
    from harness_remote.client.client import Timeouts
    from harness_remote.client.device import hold
    from harness_remote.client.transport import Reach

    params = spec.params
    assert isinstance(params, BoardParams)
    try:
        name, board, inventory = _find(spec)
        credentials = inventory.credentials(name)
        described = ask_board(name, credentials, params.answer_within)
        info = info_of(spec.name, spec.backend, board, described, _computes_on(params))
    except ValueError as error:
        raise DeviceError(error) from None
    computes_on = _computes_on(params)
    return hold(
        spec,
        info,
        Reach(board=name, credentials=credentials, via=board.via, frames_port=board.frames_port),
        Timeouts(params.answer_within, params.lost_after, params.lease_wait, params.work_within),
        device="cpu" if computes_on == "cpu" else f"{computes_on}:0",
        detached=params.detached,
    )


def _find(spec: DeviceSpec) -> tuple[str, Board, Inventory]:
    params = spec.params
    assert isinstance(params, BoardParams)
    name = params.board or spec.name
    try:
        inventory = Inventory.load()
        board = inventory.board(name)
    except (StorageError, SuiteError) as error:
        raise ValueError(str(error)) from None
    if board.backend != spec.backend:
        raise ValueError(
            f"{inventory.source.where(name, 'backend')}: {board.backend}, and the suite says {spec.backend}"
        )
    return name, board, inventory


def _external(inventory: Inventory, name: str) -> list[MeterUse]:
    """Return the meters that the inventory names for a board and that answer.

    Raises:
        ValueError: a meter is unknown, or its parameters are wrong.
    """
    refs = inventory.boards[name].meters
    if not refs:
        return []
    plugins = load_plugins()
    try:
        chosen = []
        for index, ref in enumerate(refs):
            path = (name, "meters", index)
            registered = plugins.meters.get(ref.name, inventory.source.where(*path))
            params = validated(registered.entry.params, ref.params, inventory.source, (*path, ref.name))
            chosen.append((registered, params))
    except (SuiteError, UnknownEntry) as error:
        raise ValueError(str(error)) from None
    try:
        uses, absent = Meters(plugins).named(chosen)
    except ValueError as error:
        raise ValueError(f"{inventory.source.where(name, 'meters')}: {error}") from None
    for meter in absent:
        _LOG.warning("%s: %s is not read: %s", name, meter.name, meter.reason)
    return uses


def ask_board(
    name: str, credentials: Credentials, reach_s: float | None = None, patience: Patience = PATIENCE
) -> BoardDescription:
    """Return the description that the agent gives of its board now.

    Raises:
        BoardLost: the board does not answer within ``reach_s``, or takes too long to describe itself.
        DeviceError: the agent answers with an error, or speaks another protocol.
    """
    from harness_remote.client.client import Client, Timeouts

    client = Client(name, credentials, Timeouts())
    try:
        client.health(patience.describe_s if reach_s is None else reach_s)
        return client.describe(max(patience.describe_s, reach_s or 0.0))
    finally:
        client.close()


def _computes_on(params: BoardParams) -> str:
    return params.device if isinstance(params, GpuBoardParams) else "cpu"


def backend_of(described: BoardDescription) -> str:
    """Return the backend for a board with this description."""
    if described.model.startswith("Raspberry Pi"):
        return "raspberry-pi"
    return "jetson" if described.jetpack else "agent"


def _not_of(backend: str, described: BoardDescription) -> str:
    """Return why the backend does not fit the board, or an empty string if it fits."""
    own = backend_of(described)
    if backend in ("agent", own):
        return ""
    return f"backend: {backend} is for others; write {own} in the inventory and in the suite"


def _keep(path: Path, credentials: Credentials, described: BoardDescription) -> None:
    when = datetime.now().isoformat(" ", "minutes")
    content = json.dumps({"target": credentials.target, "when": when, "board": asdict(described)})
    with contextlib.suppress(OSError):  # the file is needed only for planning without the board
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)


def _kept(path: Path, credentials: Credentials) -> tuple[BoardDescription, str] | None:
    """Return the kept description of the board at this address and its date, or None."""
    try:
        kept = json.loads(read_regular(path, _MOST_KEPT_BYTES))
        described = TypeAdapter(BoardDescription).validate_python(kept["board"])
        return (described, str(kept["when"])) if kept["target"] == credentials.target else None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ):  # ValueError: another version wrote the file
        return None
