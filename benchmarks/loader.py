"""Compare reading and augmenting images with 0, 1 and 2 worker processes: images per second, start and memory.

Made pictures: JPEGs of 500 x 375 pixels, about the mean of ImageNet, cropped to 224 pixels with DeiT's augmentation and for
evaluation; and PNGs of 32 x 32 pixels with RandAugment. The numbers of workers take turns. The start is not in the speed.
``own ms`` is the CPU time of the training process per image, which does not depend on how busy the machine is.

    python benchmarks/loader.py [rounds] [images]
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageFilter

from harness.data.opened import open_data
from harness.plugins import load_plugins
from harness.train.loading import Draws, Loader, Pixels, StoredPixels
from harness.train.random_images import RandomImages
from harness.types.data import DataChoice
from harness.types.recipe import TrainRecipe

WORKERS = (0, 1, 2)
BATCH = 64
DEIT = TrainRecipe(augment="resized-crop-flip", rand_augment="rand-m9-mstd0.5-inc1")
SMALL = TrainRecipe(rand_augment="rand-m9-mstd0.5-inc1")


def pictures(folder: Path, size: tuple[int, int], ending: str, count: int) -> Path:
    """Write smoothed noise, whose JPEGs are about as large as photographs."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("a", "b"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count // 2):
                noise = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
                noise.filter(ImageFilter.GaussianBlur(1)).save(folder / split / label / f"{number}.{ending}")
    return folder


def sources(folder: Path, count: int) -> dict[str, Pixels]:
    entry = load_plugins().datasets.get("imagefolder").entry

    def split(path: Path, **choice: object):
        params = entry.params(path=str(path), crop="none")
        return open_data(
            entry, params, DataChoice(name="imagefolder", validation=0, **choice), keep_bytes=0
        ).train

    large = split(
        pictures(folder / "large", (500, 375), "jpg", count),
        image_size=224,
        crop_pct=0.875,
        interpolation="bicubic",
    )
    small = split(pictures(folder / "small", (32, 32), "png", count), image_size=32)
    return {
        "224 px, DeiT": RandomImages(large, DEIT),
        "224 px, evaluation": StoredPixels(large),
        "32 px, RandAugment": RandomImages(small, SMALL),
    }


def pass_over(loader: Loader, count: int) -> tuple[float, float]:
    """Return the images per second of one pass, from its first batch to its last, and this process's CPU ms per image."""
    batches = [Draws.of(np.arange(BATCH) % count, seed=number) for number in range(count // BATCH)]
    images = loader.read(0, batches)
    next(images)
    begin, used = time.perf_counter(), time.process_time()
    read = sum(len(batch) for batch in images)
    return read / (time.perf_counter() - begin), 1000 * (time.process_time() - used) / read


def main(rounds: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(
            f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {count} images a pass, median of {rounds} passes"
        )
        print(
            f"{'':20} {'workers':>7} {'images/s':>9} {'ratio':>6} {'own ms':>7} {'start s':>8} {'MB each':>8}"
        )
        for name, source in sources(Path(folder), count).items():
            loaders = {workers: Loader(workers) for workers in WORKERS}
            start, memory = {}, {}
            for workers, loader in loaders.items():
                loader.add(source)
                before = {child.pid for child in psutil.Process().children(recursive=True)}
                begin = time.perf_counter()
                list(loader.read(0, [Draws.of(np.arange(1))]))
                start[workers] = time.perf_counter() - begin
                children = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
                forked = [child for child in children if "forkserver" in str(child.parent().cmdline())]
                own = [child.memory_full_info().pss for child in forked]
                memory[workers] = statistics.mean(own) / 1e6 if own else 0.0
            speeds: dict[int, list[float]] = {workers: [] for workers in WORKERS}
            own_ms: dict[int, list[float]] = {workers: [] for workers in WORKERS}
            for _ in range(rounds):
                for workers, loader in loaders.items():
                    speed, milliseconds = pass_over(loader, count)
                    speeds[workers].append(speed)
                    own_ms[workers].append(milliseconds)
            for workers, loader in loaders.items():
                ratio = statistics.median(a / b for a, b in zip(speeds[workers], speeds[0], strict=True))
                print(
                    f"{name:20} {workers:7} {statistics.median(speeds[workers]):9.0f} {ratio:6.2f} "
                    f"{statistics.median(own_ms[workers]):7.2f} {start[workers]:8.1f} {memory[workers]:8.0f}"
                )
                loader.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, int(sys.argv[2]) if len(sys.argv) > 2 else 512)
