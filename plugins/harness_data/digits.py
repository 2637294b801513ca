"""The handwritten digits of scikit-learn: 1,797 grey images of 8 x 8 pixels, embedded in the package.

They are the test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin, Kaynak 1998), which has
no split of its own. This split is stratified and fixed: 1,437 images for training, 360 for testing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.types import DataInfo, Params

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Digits", "describe", "load"]

SPLIT_SEED = 8
TEST_PER_CLASS = (36, 36, 35, 37, 36, 37, 36, 36, 35, 36)
"""The number of test images of each class: a fifth of the class, rounded. Digit 5 gets the one image that remains."""

# Mean and std are of the training pixels. The fingerprint covers labels and pixels. Tests compare all three.
INFO = DataInfo(
    name="digits",
    shape=(1, 8, 8),
    class_names=tuple("0123456789"),
    sizes={"train": 1437, "test": 360},
    mean=(0.3055,),
    std=(0.3762,),
    fingerprint="763f15d4255ebdba9fc1686a13b12f3a5b38fae5357bbc8705b5725cee5a0270",
    note="scikit-learn load_digits; 0..16 scaled to 0..255; stratified split of the project's own",
)


class Digits:
    """The images of one split, in the order of the stored set."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self._images = images
        self.labels = labels

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return the image as uint8 [8, 8, 1]."""
        image: NDArray[np.uint8] = self._images[index]
        return image

    def __len__(self) -> int:
        return len(self.labels)


def describe(params: Params) -> DataInfo:
    """Return the static facts of the digits."""
    return INFO


def load(params: Params, split: str) -> Digits:
    """Return one split, "train" or "test"."""

    import numpy as np
    from sklearn.datasets import load_digits

    stored = load_digits()
    labels = stored.target.astype(np.int64)
    test = np.zeros(len(labels), bool)
    for label, count in enumerate(TEST_PER_CLASS):
        # the stream of RandomState never changes, so the split is the same with any numpy
        order = np.random.RandomState([SPLIT_SEED, label]).permutation(np.flatnonzero(labels == label))
        test[order[:count]] = True
    chosen = test if split == "test" else ~test
    pixels = np.rint(stored.images * (255 / 16)).astype(np.uint8)[..., None]
    return Digits(pixels[chosen], labels[chosen])
