"""Several processes that train one model, each on its own GPU (or, over gloo, on cores of the CPU).

Every rank runs the same node with the same code and seed, so all ranks compute the same modules, losses and splits. A
method needs no code for this. Only training is parallel: each batch is sharded over the ranks, and before each update
the gradients are averaged over all samples of the batch. Some facts must be equal but may differ between ranks, such
as whether an artifact exists, a checkpoint, or an accuracy. Rank 0 decides them and broadcasts them.

Rank 0 is the child process that got the node from :mod:`harness.prepare.jobs`. It starts and ends the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

    from harness.types.plan import Node

__all__ = ["PATIENCE_S", "SINGLE_PROCESS", "Ranks", "T", "Team"]

T = TypeVar("T")

PATIENCE_S = 1800.0
"""Longest time in seconds that a rank waits for the others, in one exchange of gradients and at the end of a node."""


class Ranks:
    """The collective operations of a single process. Subclasses implement them for several processes."""

    rank = 0
    count = 1

    def broadcast_object(self, what: str, make: Callable[[], T]) -> T:
        """Return the value of ``make()`` on rank 0, on every rank. The other ranks wait for it.

        Raises:
            RuntimeError: rank 0 broadcasts something other than ``what``.
        """
        return make()

    def device(self, wanted: str) -> str:
        """Return torch's name of this rank's device."""
        return wanted

    def shard(self, samples: int) -> tuple[int, int]:
        """Return the first and the last position, plus 1, of this rank's shard of a batch of ``samples``.

        The shards of all ranks, in order, are the batch. A shard can be empty.
        """
        return samples * self.rank // self.count, samples * (self.rank + 1) // self.count

    def sync_weights(self, module: torch.nn.Module) -> None:
        """Replace the weights of ``module`` by those of rank 0."""

    def all_reduce_mean(self, module: torch.nn.Module, weight: float) -> None:
        """Replace each gradient by its weighted mean over the ranks. ``weight`` is this rank's share of the samples.

        The running statistics of each trained BatchNorm are averaged too, since it normalises with the samples of its
        own rank.
        """

    def all_reduce_sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of ``value`` over all ranks."""
        return value

    @contextmanager
    def run_on_all(self, node: Node) -> Iterator[None]:
        """Have the other ranks run ``node`` as well, and wait for them."""
        yield


SINGLE_PROCESS = Ranks()


class Team(Ranks):
    """The collective operations of one of several processes."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count

    def device(self, wanted: str) -> str:
        """Return ``cuda:RANK`` if a GPU is wanted, else ``wanted``."""
        return f"cuda:{self.rank}" if wanted.startswith("cuda") else wanted

    def join(self, port: int, device: str, threads: int, listening: int | None = None) -> None:
        """Connect to the other ranks on ``port`` of this machine.

        Rank 0 listens there with the file descriptor ``listening``.
        """
        os.environ.update(RANK=str(self.rank), LOCAL_RANK=str(self.rank))
        os.environ.update(WORLD_SIZE=str(self.count), LOCAL_WORLD_SIZE=str(self.count))
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # otherwise accelerate chooses the number
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        import torch
        from accelerate import PartialState

        limit, cpu = timedelta(seconds=PATIENCE_S), not device.startswith("cuda")
        store = torch.distributed.TCPStore(
            "127.0.0.1",
            port,
            self.count,
            is_master=self.rank == 0,
            timeout=limit,
            wait_for_workers=False,
            master_listen_fd=listening,
        )
        PartialState(
            cpu=cpu,
            backend="gloo" if cpu else "nccl",
            store=store,
            rank=self.rank,
            world_size=self.count,
            timeout=limit,
        )
        torch.set_num_threads(threads)

    def sync_weights(self, module: torch.nn.Module) -> None:
        """Replace the weights of ``module`` by those of rank 0."""

        def weights() -> dict[str, torch.Tensor]:
            return {name: tensor.cpu() for name, tensor in module.state_dict().items()}

        module.load_state_dict(self.broadcast_object("starting weights", weights))

    def all_reduce_mean(self, module: torch.nn.Module, weight: float) -> None:
        """Replace each gradient, and the BatchNorm statistics, by the weighted mean over the ranks."""
        import torch

        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # A rank has no gradient of a parameter that its samples do not use. The gradient then counts as zero.
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        statistics = _statistics(module)
        flat = torch.cat([tensor.flatten() for tensor in (*gradients, *statistics)]) * weight
        has_gradient = flat.new_tensor([parameter.grad is not None for parameter in trained])
        sums = self.all_reduce_sum(torch.cat([flat, has_gradient]))
        mean, ranks_with_gradient = sums.split([len(flat), len(trained)])
        sizes = [tensor.numel() for tensor in (*gradients, *statistics)]
        for tensor, value in zip((*gradients, *statistics), mean.split(sizes), strict=True):
            tensor.copy_(value.view_as(tensor))
        for parameter, gradient, by_any in zip(trained, gradients, ranks_with_gradient.tolist(), strict=True):
            parameter.grad = gradient if by_any else None

    def all_reduce_sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of ``value`` over all ranks."""
        from accelerate.utils import reduce

        return reduce(value, "sum")


def _statistics(module: torch.nn.Module) -> list[torch.Tensor]:
    from torch.nn.modules.batchnorm import _BatchNorm

    trained = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.training]
    return [s for part in trained for s in (part.running_mean, part.running_var) if s is not None]
