"""Model assignment (section 4.4, Algorithm 3, and Eq. 1): which device runs which part. Torch-free.

Readings taken:

- A device's remaining energy is E_i minus L times the MACs of ALL its parts.
- Idle devices count in the minimum.
- Each part is on exactly one device (the last constraint of Eq. 1).
- The part that gives the answer is on the central device, and what it needs there is subtracted first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.types import Fleet, PartSketch, Placement, Sketch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.optimize import OptimizeResult

__all__ = ["Problem", "exact", "greedy", "greedy_as_printed", "problem_of"]

SOLVE_ERROR = 4
"""The status of ``scipy.optimize.milp`` if the solver itself failed."""


@dataclass
class Problem:
    """The ``parts`` to be placed, from the most to the least MACs (line 1), and what each device has left.

    ``energy`` is in MACs and ``memory`` in bytes, one value per device. ``samples`` are the images L to be processed.
    ``device_of`` are the parts that are placed already.
    """

    parts: list[PartSketch]
    samples: int
    energy: list[float]
    memory: list[float]
    device_of: dict[str, int]

    def need(self, part: PartSketch) -> int:
        """Return the MACs of ``part`` over all images."""
        return self.samples * part.macs

    def fits(self, part: PartSketch, device: int) -> bool:
        """Return whether ``device`` has memory and energy for ``part`` (line 4)."""
        return self.memory[device] >= part.weight_bytes and self.energy[device] >= self.need(part)

    def assign(self, part: PartSketch, device: int) -> None:
        """Place ``part`` on ``device``, which then has less energy and memory left (lines 5 and 6)."""
        self.energy[device] -= self.need(part)
        self.memory[device] -= part.weight_bytes
        self.device_of[part.name] = device


def greedy_as_printed(problem: Problem) -> Placement:
    """Place the parts by Algorithm 3 to the letter.

    Raises:
        ValueError: no device is left (line 10), or a part was lost: after line 8 the printed loop takes the next
            part, not the next device.
    """
    left = list(range(len(problem.energy)))
    lost = []
    for part in problem.parts:  # line 2
        device = max(left, key=lambda k: problem.energy[k])  # line 3
        if problem.fits(part, device):  # line 4
            problem.assign(part, device)  # lines 5 and 6
        else:
            lost.append(part.name)
            left.remove(device)  # line 8
            if not left:  # lines 9 and 10
                raise ValueError(
                    f"Algorithm 3 as printed found no placement: no device is left at {part.name!r}; "
                    "greedy or exact may find one"
                )
    if lost:
        raise ValueError(
            f"Algorithm 3 as printed lost {', '.join(lost)}: where the chosen device is too small it continues "
            "with the next part; greedy tries the next device"
        )
    return Placement(device_of=problem.device_of)  # line 14


def greedy(problem: Problem) -> Placement:
    """Place the parts by Algorithm 3 repaired: each on the device with most energy left that can take it.

    Raises:
        ValueError: no device can take a part.
    """
    for part in problem.parts:
        able = [k for k in range(len(problem.energy)) if problem.fits(part, k)]
        if not able:
            raise ValueError(
                f"greedy found no placement: no device has {part.weight_bytes / 2**20:.2f} MiB and "
                f"{problem.need(part) / 1e9:.4g} GMACs left for {part.name!r}; exact may find one"
            )
        problem.assign(part, max(able, key=lambda k: problem.energy[k]))
    return Placement(device_of=problem.device_of)


def exact(problem: Problem) -> Placement:
    """Place the parts by Eq. 1: maximise t over x, where t <= E_i - L sum_j e_j x_ij for every device i.

    Raises:
        ValueError: there is no placement.
    """
    import numpy as np

    parts, devices = problem.parts, len(problem.energy)
    if not parts:
        return Placement(device_of=problem.device_of)
    # in units of the largest need, so that the solver's absolute tolerances mean something
    unit_e = max(1, *map(problem.need, parts))
    unit_m = max(1, *(part.weight_bytes for part in parts))
    e = np.array([problem.need(part) for part in parts]) / unit_e
    m = np.array([part.weight_bytes for part in parts]) / unit_m
    # more than all parts need is as good as enough (and the solver dislikes large numbers)
    memory = np.minimum(np.array(problem.memory) / unit_m, m.sum())
    energy = np.array(problem.energy) / unit_e
    solved = _solve_eq_1(e, m, energy, memory, top=None)
    if solved.status == SOLVE_ERROR:
        solved = _solve_eq_1(e, m, energy, memory, top=energy.max())
    if solved.x is None:
        raise ValueError(f"no placement: the devices cannot hold the parts ({solved.message.strip()})")
    chosen = solved.x[:-1].reshape(devices, len(parts)).argmax(axis=0)
    return Placement(
        device_of={**problem.device_of, **{part.name: int(i) for part, i in zip(parts, chosen, strict=True)}}
    )


def _solve_eq_1(
    e: NDArray[Any], m: NDArray[Any], energy: NDArray[Any], memory: NDArray[Any], *, top: float | None
) -> OptimizeResult:
    """Solve Eq. 1 for the needs ``e`` and sizes ``m`` [parts] and the devices' ``energy`` and ``memory`` [devices].

    The last variable is t. With ``top``, which no t exceeds, it is top - t: the same optimum in another form. HiGHS ends
    some instances of the first form with an error (scipy 1.17: one part, and three devices of equal energy).
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    n = len(energy) * len(e)  # x_ij at i * parts + j
    load = np.kron(np.eye(len(energy)), e)
    size = np.kron(np.eye(len(energy)), m)
    once = np.kron(np.ones(len(energy)), np.eye(len(e)))
    pad = np.zeros((len(energy), 1))
    sign, offset, most = (1.0, 0.0, np.inf) if top is None else (-1.0, top, top)
    return milp(
        c=np.append(np.zeros(n), -sign),
        integrality=np.append(np.ones(n), 0),
        bounds=Bounds(np.zeros(n + 1), np.append(np.ones(n), most)),  # t >= 0 is L e_j <= E_i
        constraints=[
            LinearConstraint(np.hstack([load, pad + sign]), -np.inf, energy - offset),
            LinearConstraint(np.hstack([size, pad]), -np.inf, memory),
            LinearConstraint(np.hstack([once, np.zeros((len(e), 1))]), 1, 1),
        ],
        options={"mip_rel_gap": 0.0},
    )


def problem_of(
    sketch: Sketch,
    fleet: Fleet,
    *,
    energy_gmacs: Sequence[float] | None,
    memory_mb: Sequence[float] | None,
    samples: int,
) -> Problem:
    """Return the problem of placing the parts of ``sketch`` on the devices of ``fleet``.

    Its last part, which gives the answer, is placed on the central device. ``energy_gmacs`` (10^9 MACs) and ``memory_mb``
    (MiB) have a value per device; by default there is energy for all parts, and memory is that of the devices.

    Raises:
        ValueError: as many values as devices are not given, or the central device has no room for the last part.
    """
    *others, last = sketch.parts
    n = len(fleet.devices)
    everything = samples * sum(part.macs for part in sketch.parts)
    energy = _per_device("energy_gmacs", energy_gmacs, n, 1e9) or [float(everything)] * n
    memory = _per_device("memory_mb", memory_mb, n, 2**20) or [float(d.memory_bytes) for d in fleet.devices]
    parts = sorted(others, key=lambda part: -part.macs)
    problem = Problem(parts=parts, samples=samples, energy=energy, memory=memory, device_of={})
    if not problem.fits(last, fleet.central):
        raise ValueError(f"the central device has no room for {last.name!r}, which gives the answer")
    problem.assign(last, fleet.central)
    return problem


def _per_device(what: str, values: Sequence[float] | None, devices: int, unit: float) -> list[float] | None:
    """Return ``values`` times ``unit``, or ``None`` if there are none; ``what`` names the parameter in an error."""
    if values is not None and len(values) != devices:
        raise ValueError(f"{what}: {len(values)} values are given, but the fleet has {devices} devices")
    return None if values is None else [value * unit for value in values]
