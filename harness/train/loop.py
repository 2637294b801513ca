"""The training loop of all methods. A method gives it a module and, if needed, a loss.

Everything random in an epoch (order, augmentation, dropout) is a pure function of the seed and the epoch's number,
and a checkpoint is written after every epoch. A training that was killed and resumed therefore ends with
bit-identical weights. So do two processes with the same seed, threads, CPU capability, torch version and ``compile``.
On CUDA deterministic kernels are requested, but the backward pass of fused attention is not bit-reproducible there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import CellError
from harness.train import checkpoint
from harness.train.augment import Augmented
from harness.train.checkpoint import BestEpoch, Finished, Progress, Unfinished
from harness.train.counting.count import count
from harness.train.counting.modes import on_device
from harness.train.evaluation import KEEP_BYTES, Batches, logits_of
from harness.train.loading import Loader, epoch_draws
from harness.train.losses import Loss, default_loss
from harness.train.optim import make_optimizer, make_scheduler
from harness.train.ranks import SINGLE_PROCESS, Ranks
from harness.train.reproducible import reproducible
from harness.types import FitResult, Split, TensorSpec
from harness.types.recipe import TrainRecipe

if TYPE_CHECKING:
    import torch

__all__ = ["fit"]

_PROGRESS_S = 5.0  # seconds between two progress messages of a long epoch


def fit(
    module: torch.nn.Module,
    recipe: TrainRecipe,
    train: Split,
    validation: Split | None,
    *,
    loss: Loss | None = None,
    seed: int,
    device: str,
    folder: Path,
    progress: Callable[[str, float | None], None],
    name: str = "fit",
    ranks: Ranks = SINGLE_PROCESS,
    workers: int = 0,
    keep_bytes: int = KEEP_BYTES,
    set_aside: checkpoint.SetAside = checkpoint.warn,
) -> FitResult:
    """Train ``module`` in place. Afterwards it is in evaluation mode, on the device where it was before.

    ``loss(module, batch)`` returns the mean over the batch as a scalar. Its random numbers must come from torch's
    global generator, and every parameter that it trains must belong to ``module``. ``module(inputs)`` must work for
    any loss: MACs are counted on it, and validation takes its output as logits [n, classes].

    Parameters with ``requires_grad=False`` do not change. A submodule whose parameters are all frozen runs in
    evaluation mode: its BatchNorm statistics do not change, and its dropout is off. If a BatchNorm is trained, a last
    batch of one sample is skipped.

    The training resumes from ``folder/name.ckpt`` if that has the same recipe, seed, labels and starting weights. A
    training that is complete there returns at once. ``set_aside`` is called for a damaged file there.
    ``image_passes`` counts samples in training forward passes; ``train_macs`` is that number times the MACs of one
    forward pass. Backward passes and validation are not in it. ``history`` has for each epoch ``loss`` (mean), ``lr``
    (after the last update) and, with validation, ``top1`` of the trained weights and ``ema_top1`` of the averaged ones.

    With ``ema`` the weights are also averaged over the updates. The decay of update n is 1 - n^(-2/3) and at most
    ``ema`` (timm's warm-up), so the starting weights are in no average. ``keep`` says which weights remain.

    With several ``ranks`` each rank calls this with the same arguments and ends with the same weights. Every batch is
    split among the ranks, and only rank 0 reads and writes the checkpoint. ``loss`` then sees a part of the batch, so
    a loss that compares samples, and is therefore not a mean over samples, gives other values.

    Splits of up to ``keep_bytes`` bytes are copied to the device whole. ``workers`` processes read the images of other
    splits ahead of their use. Neither changes the result.

    Raises:
        ValueError: the recipe does not fit the module, the data or the device.
        CellError: the loss is no longer finite, or the module's MACs cannot be counted.
        StorageError: the checkpoint cannot be written.
    """
    import torch

    if validation is not None and len(validation) == 0:
        validation = None
    where = torch.device(device)
    _check(module, recipe, train, validation, where, ranks)
    if recipe.epochs == 0:
        module.eval()
        return FitResult(image_passes=0, train_macs=0, train_s=0.0, epochs=0)

    ranks.sync_weights(module)
    macs = count(module, [TensorSpec(shape=_input(train, recipe))]).macs
    path = folder / f"{name}.ckpt"
    labels = b"|".join(np.array(split.labels).tobytes() for split in (train, validation) if split is not None)
    key = checkpoint.training_key(recipe, seed, module, labels)
    saved = ranks.broadcast_object(
        f"the checkpoint of {name!r}", lambda: checkpoint.load(path, key, set_aside)
    )
    if saved is None or not saved["done"]:
        with on_device(module, where), reproducible(where), Loader(workers) as loader:
            samples = Augmented(train, recipe, where, module, keep_bytes=keep_bytes, loader=loader)
            validated = None
            if validation is not None:
                validated = Batches(validation, where, keep_bytes=keep_bytes, loader=loader)
            run = _Run(module, recipe, samples, validated, loss, seed, where, progress, ranks)
            if saved is not None:
                run.restore(saved)
            while not run.finished:
                run.epoch(name)
                if not run.finished and ranks.rank == 0:
                    checkpoint.save(path, key, run.state())
            saved = run.result()
        if ranks.rank == 0:
            checkpoint.save(path, key, saved)
    module.load_state_dict(saved["module"])
    module.eval()
    return FitResult(
        image_passes=saved["image_passes"],
        train_macs=saved["image_passes"] * macs,
        train_s=saved["train_s"],
        epochs=len(saved["history"]),
        history=tuple(saved["history"]),
    )


class _Run:
    """The state of a training between two epochs. The next epoch depends on nothing else."""

    def __init__(
        self,
        module: torch.nn.Module,
        recipe: TrainRecipe,
        samples: Augmented,
        validation: Batches | None,
        loss: Loss | None,
        seed: int,
        device: torch.device,
        progress: Callable[[str, float | None], None],
        ranks: Ranks,
    ) -> None:
        import torch

        self.module, self.recipe, self.seed, self.device = module, recipe, seed, device
        self.progress, self.ranks = progress, ranks
        self.forward = torch.compile(module) if recipe.compile else module
        self.loss = loss or default_loss(recipe)
        self.samples, self.validation = samples, validation
        self.trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.steps = _updates_per_epoch(len(samples), recipe.batch_size, ranks.count, module)
        self.optimizer = make_optimizer(module, recipe)
        self.scheduler = make_scheduler(self.optimizer, recipe, self.steps)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.amp == "fp16")
        self.average = None
        if recipe.ema is not None:
            from timm.utils import ModelEmaV3

            self.average = ModelEmaV3(module, decay=recipe.ema, use_warmup=True)
        self.history: list[dict[str, float]] = []
        self.image_passes = 0
        self.train_s = 0.0
        self.best: BestEpoch | None = None

    def state(self) -> Unfinished:
        """Return the content of a checkpoint."""
        return {
            "done": False,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "best": self.best,
            **self._progress(),
        }

    def result(self) -> Finished:
        """Return the result of a complete training: its weights and its history.

        With early stopping, the weights are the best ones.
        """
        weights = self.kept.state_dict() if self.best is None else self.best["module"]
        kept = {name: tensor.cpu() for name, tensor in weights.items()}
        return {"done": True, "module": kept, **self._progress()}

    def _progress(self) -> Progress:
        return {"history": self.history, "image_passes": self.image_passes, "train_s": self.train_s}

    def restore(self, saved: Unfinished) -> None:
        """Set the state to that of a checkpoint."""
        self.module.load_state_dict(saved["module"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.average is not None:
            assert saved["average"] is not None  # the key of a checkpoint covers the recipe
            self.average.load_state_dict(saved["average"])
        self.best = saved["best"]
        self.history = list(saved["history"])
        self.image_passes, self.train_s = saved["image_passes"], saved["train_s"]
        self.scheduler.step_update(len(self.history) * self.steps)

    @property
    def kept(self) -> torch.nn.Module:
        """Return the module whose weights the recipe keeps: the trained one, or that with averaged weights."""
        return (
            self.average.module
            if self.average is not None and self.recipe.keep == "averaged"
            else self.module
        )

    @property
    def finished(self) -> bool:
        done, patience = len(self.history), self.recipe.early_stop
        stopped = patience is not None and self.best is not None and done - self.best["epoch"] >= patience
        return done >= self.recipe.epochs or stopped

    def epoch(self, name: str) -> None:
        """Train one epoch, validate, and append to the history."""
        began = time.perf_counter()
        number = len(self.history) + 1
        total = self._train(number, began)
        lr = self.optimizer.param_groups[0]["lr"]
        loss = float(total)
        if not (math.isfinite(loss) and all(bool(weights.isfinite().all()) for weights in self.trainable)):
            raise CellError(
                f"training {name!r}: loss or weights are no longer finite in epoch {number} (lr {lr:.3g}); "
                f"try a lower lr, clip_grad: 1.0, more warmup_epochs{', amp: bf16' * (self.recipe.amp == 'fp16')}",
                stage="train",
            )
        entry = {"loss": loss, "lr": lr}
        if self.validation is not None:
            entry |= self.ranks.broadcast_object("a validation", self._validate)
            top1 = entry["ema_top1" if self.recipe.keep == "averaged" else "top1"]
            if self.recipe.early_stop and (self.best is None or top1 > self.best["top1"]):
                weights = {key: tensor.cpu().clone() for key, tensor in self.kept.state_dict().items()}
                self.best = {"epoch": number, "top1": top1, "module": weights}
        self.history.append(entry)
        self.train_s += time.perf_counter() - began
        self._report(number, 0.0, self.train_s)

    def _validate(self) -> dict[str, float]:
        """Return the accuracy of the trained weights and, if there are any, of the averaged ones."""
        top1 = {"top1": self._top1(self.module)}
        return top1 if self.average is None else {**top1, "ema_top1": self._top1(self.average.module)}

    def _top1(self, module: torch.nn.Module) -> float:
        assert self.validation is not None
        logits = logits_of(module, self.validation, self.recipe.batch_size)
        hits = (logits.argmax(1) == self.validation.labels).sum()
        return 100 * int(hits) / len(self.validation)

    def _train(self, number: int, began: float) -> torch.Tensor:
        """Make one epoch's updates. Return the mean loss, still on the device."""
        import torch

        recipe, size, ranks = self.recipe, self.recipe.batch_size, self.ranks
        torch_seed, augment_seed = map(int, np.random.SeedSequence([self.seed, number]).generate_state(2))
        torch.manual_seed(torch_seed + ranks.rank)
        whole = epoch_draws(len(self.samples), recipe.repeats, [self.seed, number])
        batches = [whole.part(step * size, (step + 1) * size) for step in range(self.steps)]
        own = [
            (step * ranks.count + ranks.rank, batch.part(*ranks.shard(len(batch))))
            for step, batch in enumerate(batches)
        ]
        samples = self.samples.epoch(augment_seed, [shard for shard in own if len(shard[1])])
        dtype = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.amp]
        _training_mode(self.module)
        total = torch.zeros((), device=self.device)
        seen, reported = 0, began
        for step, (rows, (_, shard)) in enumerate(zip(batches, own, strict=True)):
            if len(shard):
                batch = next(samples)
                with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
                    loss = self.loss(self.forward, batch)
                self.scaler.scale(loss).backward()
                total += loss.detach() * len(shard)
            ranks.all_reduce_mean(self.module, len(shard) / len(rows))
            if recipe.clip_grad is not None:
                self.scaler.unscale_(self.optimizer)
                torch.nn.utils.clip_grad_norm_(self.trainable, recipe.clip_grad)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.average is not None:
                self.average.update(self.module, step=(number - 1) * self.steps + step + 1)
            self.optimizer.zero_grad(set_to_none=True)
            self.scheduler.step_update((number - 1) * self.steps + step + 1)
            seen += len(rows)
            now = time.perf_counter()
            if now - reported > _PROGRESS_S:
                reported = now
                self._report(number - 1, (step + 1) / self.steps, self.train_s + now - began)
        self.image_passes += seen
        return ranks.all_reduce_sum(total) / seen

    def _report(self, done: int, part: float, spent: float) -> None:
        fraction = (done + part) / self.recipe.epochs
        text = f"epoch {min(done + (part > 0), self.recipe.epochs)}/{self.recipe.epochs}"
        if self.history:
            text += f"  loss {self.history[-1]['loss']:.3g}"
            if "top1" in self.history[-1]:
                text += f"  val {self.history[-1]['top1']:.1f}%"
        left = round(spent * (1 - fraction) / fraction)
        self.progress(f"{text}  {left // 60}:{left % 60:02} left", fraction)


def _check(
    module: torch.nn.Module,
    recipe: TrainRecipe,
    train: Split,
    validation: Split | None,
    device: torch.device,
    ranks: Ranks,
) -> None:
    if len(train) == 0:
        raise ValueError("there is no training sample")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ValueError("no parameter of the module is to be trained (requires_grad)")
    if recipe.amp == "fp16" and device.type != "cuda":
        raise ValueError(
            f"amp fp16 needs a CUDA device, and this training runs on {device}; bf16 works on both"
        )
    if recipe.early_stop is not None and validation is None:
        raise ValueError("early_stop needs a validation split (data: validation)")
    if min(len(train), recipe.batch_size) < ranks.count:
        raise ValueError(
            f"{ranks.count} processes need batches of {ranks.count} samples or more, "
            f"not {min(len(train), recipe.batch_size)} (train: batch_size, or prepare: processes)"
        )


def _input(train: Split, recipe: TrainRecipe) -> tuple[int, ...]:
    """Return the shape of a sample in training."""
    shape = train.batch([0]).shape[1:]
    return shape if recipe.image_size is None else (shape[0], recipe.image_size, recipe.image_size)


def _updates_per_epoch(samples: int, batch_size: int, processes: int, module: torch.nn.Module) -> int:
    """Return the number of updates in an epoch. A last batch that cannot train the module's BatchNorms is skipped.

    Raises:
        ValueError: no batch is left.
    """
    # A rank would get one sample of the last batch.
    lonely = 0 < samples % batch_size < 2 * processes <= batch_size
    updates = math.ceil(samples / batch_size) - (lonely and _trains_batch_norm(module))
    if updates == 0:
        few = (
            "one training sample" if samples == 1 else f"{samples} training samples in {processes} processes"
        )
        raise ValueError(f"{few} cannot train a BatchNorm")
    return updates


def _training_mode(module: torch.nn.Module) -> None:
    """Set training mode, except for submodules whose parameters are all frozen."""
    module.train()
    for part in module.modules():
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            part.eval()


def _trains_batch_norm(module: torch.nn.Module) -> bool:
    from torch.nn.modules.batchnorm import _BatchNorm

    _training_mode(module)
    return any(isinstance(part, _BatchNorm) and part.training for part in module.modules())
