"""The door for authors of models, compressors, partitioners and placers.

What it re-exports is documented in docs/hooks.md and stays. Importing it does not import torch.
"""

from harness.data.splits import ArraySplit, relabel, subset
from harness.train.counting.count import count
from harness.train.counting.modes import evaluating, on_device
from harness.train.evaluation import Batch, Batches
from harness.train.features import extract_features, fit_on_features
from harness.train.splitting import (
    FINE_TUNING,
    Countable,
    Draw,
    Piece,
    class_groups,
    even_shares,
    fused_partition,
    fused_sketch,
    image_sketch,
    own_images,
    resampled,
    resumable,
    seeded,
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
    "on_device",
    "own_images",
    "relabel",
    "resampled",
    "resumable",
    "seeded",
    "subset",
]
