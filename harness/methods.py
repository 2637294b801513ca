"""Names that authors of models, compressors, partitioners, placers and data sets import beside :mod:`harness.types`.

The names are documented in docs/hooks.md and do not change. A name is imported from its module when it is first used,
so that importing this module loads neither torch nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.doors import door

if TYPE_CHECKING:
    from harness.data.splits import ArraySplit, relabel, subset
    from harness.extras import install_command
    from harness.store.remembered import remembered
    from harness.train.counting.count import count
    from harness.train.counting.modes import evaluating, on_device
    from harness.train.evaluation import Batch, Batches
    from harness.train.features import extract_features, fit_on_features
    from harness.train.sketching import Countable, even_shares, fused_sketch, image_sketch, seeded
    from harness.train.splitting import (
        FINE_TUNING,
        Draw,
        Piece,
        class_groups,
        fused_partition,
        own_images,
        resampled,
        resumable,
    )
    from harness.types.recipe import NO_AUGMENTATION

__all__ = [
    "FINE_TUNING",
    "NO_AUGMENTATION",
    "ArraySplit",
    "Batch",
    "Batches",
    "Countable",
    "Draw",
    "Piece",
    "class_groups",
    "count",
    "evaluating",
    "even_shares",
    "extract_features",
    "fit_on_features",
    "fused_partition",
    "fused_sketch",
    "image_sketch",
    "install_command",
    "on_device",
    "own_images",
    "relabel",
    "remembered",
    "resampled",
    "resumable",
    "seeded",
    "subset",
]

_MODULES = {
    "harness.extras": ("install_command",),
    "harness.data.splits": ("ArraySplit", "relabel", "subset"),
    "harness.store.remembered": ("remembered",),
    "harness.train.counting.count": ("count",),
    "harness.train.counting.modes": ("evaluating", "on_device"),
    "harness.train.evaluation": ("Batch", "Batches"),
    "harness.train.features": ("extract_features", "fit_on_features"),
    "harness.train.splitting": (
        "FINE_TUNING",
        "Draw",
        "Piece",
        "class_groups",
        "fused_partition",
        "own_images",
        "resampled",
        "resumable",
    ),
    "harness.train.sketching": ("Countable", "even_shares", "fused_sketch", "image_sketch", "seeded"),
    "harness.types.recipe": ("NO_AUGMENTATION",),
}
__getattr__ = door(__name__, _MODULES, globals())


def __dir__() -> list[str]:
    return __all__
