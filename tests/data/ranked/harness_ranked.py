"""A model builder whose ranks report what they trained, or fail in a chosen way."""

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Literal

from harness.hookspecs import hookimpl
from harness.types import Model, ModelEntry, ModuleSpec, Params, TensorSpec

PIXELS = 64
SPEC = ModuleSpec(factory="harness_ranked:network", params={})


class RankedParams(Params):
    how: Literal["plain", "noisy", "killed", "raises", "dies", "strays"]
    out: str


def network(noise=0.0, norm=False):
    from torch import nn

    middle = nn.BatchNorm2d(6) if norm else nn.Identity()
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2), middle, nn.GELU(), nn.Dropout(noise), nn.Flatten(), nn.Linear(54, 3)
    )


def build(ctx, params):
    import torch
    from torch import nn

    from harness.data.splits import subset

    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    folder = Path(params.out) / f"{params.how}-{count}"
    folder.mkdir(parents=True, exist_ok=True)
    noisy = params.how in ("noisy", "killed")
    data = subset(ctx.data.train, range(83 if noisy else 81))  # in batches of 16 the last has 3, or 1

    def teacher():
        (folder / f"taught-{rank}-{os.urandom(4).hex()}").touch()
        model = Model(module=network(), spec=SPEC, input=TensorSpec(shape=ctx.data.info.shape), classes=3)
        ctx.fit(model.module, data=data, name="teacher", epochs=2, early_stop=None)
        return model

    taught = ctx.once("teacher", teacher).module
    torch.manual_seed(ctx.seed + 1)
    module = network(0.2, norm=True) if noisy else network()
    updates = 0

    def loss(module, batch):
        nonlocal updates
        updates += 1
        with torch.no_grad():
            targets = taught(batch.inputs)
        mean = nn.functional.cross_entropy(module(batch.inputs), batch.labels)
        if updates == 15:  # in the third epoch
            if params.how == "raises" and rank == 1:
                raise ValueError("rank 1 does not like this batch")
            if params.how == "dies" and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if params.how == "killed" and rank == 0 and not (folder / "was").exists():
                (folder / "was").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return mean + nn.functional.mse_loss(module(batch.inputs), targets)

    fitted = ctx.fit(module, loss=loss, data=data, validation=ctx.data.validation, name="own", epochs=3)
    if params.how == "strays" and rank == 1:
        ctx.evaluate(module)  # rank 0 does not
    top1 = ctx.evaluate(module).top1
    state = {
        "weights": module.state_dict(),
        "history": list(fitted.history),
        "top1": top1,
        "updates": updates,
    }
    torch.save({**state, "passes": fitted.image_passes}, folder / f"{rank}.pt")
    digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in module.state_dict().values())).hexdigest()
    (folder / f"{rank}.digest").write_text(digest)
    plain = network()
    return Model(module=plain, spec=SPEC, input=TensorSpec(shape=ctx.data.info.shape), classes=3)


def hangs_up(conn, *rest):
    """Run as a follower that closes its connection at the first node, and stays alive."""
    conn.recv()
    conn.close()
    time.sleep(600)


@hookimpl
def harness_models():
    yield ModelEntry(name="ranked", summary="for tests", params=RankedParams, build=build)
