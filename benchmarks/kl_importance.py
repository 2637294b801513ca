"""Compare ED-ViT's exact KL importance (each unit left out in turn) with its Fisher approximation: time and ranking.

The weights are random, so the agreement of the rankings is that of untrained models. The two take turns in one
process.

    python benchmarks/kl_importance.py [runs]
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from scipy.stats import spearmanr
from timm.models.vision_transformer import VisionTransformer

from harness_edvit.importance import Importance, kl_exact, kl_fisher


def seconds(measure, vit: VisionTransformer, images: torch.Tensor) -> tuple[float, Importance]:
    begin = time.perf_counter()
    found = measure(vit, images)
    return time.perf_counter() - begin, found


def agreement(one: Importance, other: Importance) -> float:
    pairs = [
        (one.residual, other.residual),
        *zip(one.attention, other.attention, strict=True),
        *zip(one.ffn, other.ffn, strict=True),
    ]
    return min(float(spearmanr(a.sum(1), b.sum(1)).statistic) for a, b in pairs)


def main(runs: int) -> None:
    torch.set_num_threads(1)
    print(
        f"{'dim':>4} {'units':>6} {'images':>6} {'exact s':>8} {'fisher s':>8} {'ratio':>6} {'Spearman, least':>16}"
    )
    for heads in (2, 4, 8):
        for count in (20, 80):
            torch.manual_seed(0)
            dim = 16 * heads
            vit = VisionTransformer(
                img_size=32, patch_size=8, in_chans=1, num_classes=10, embed_dim=dim, depth=4, num_heads=heads
            ).eval()
            images = torch.randn(count, 1, 32, 32)
            exact, fisher = [], []
            for _ in range(runs):
                spent, by_kl = seconds(kl_exact, vit, images)
                exact.append(spent)
                spent, by_fisher = seconds(kl_fisher, vit, images)
                fisher.append(spent)
            units = dim + 4 * (dim + 4 * dim)
            ratio = statistics.median(a / b for a, b in zip(exact, fisher, strict=True))
            print(
                f"{dim:4} {units:6} {count:6} {statistics.median(exact):8.2f} {statistics.median(fisher):8.3f} "
                f"{ratio:6.0f} {agreement(by_kl, by_fisher):16.2f}"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
