"""Tests of contracts of data sets, models, partitions and exports: a breach is one line that names the plugin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from broken_plugins import BUILD, DATASET, NAMED, PART, RUNTIME, SPLITTER, load, plugin
from harness.contracts.models import check_model, check_partition, check_sketched, run_parts
from harness.contracts.runtimes import check_artifact
from harness.data.splits import ArraySplit
from harness.errors import BrokenContract
from harness.plugins import load_plugins
from harness.prepare.context import open_task_data
from harness.train.evaluation import evaluate
from harness.types import Artifact, Edge, Model, ModuleSpec, Part, Partition, Sketch, TensorSpec
from harness.types.data import DataChoice
from harness.types.plan import DataRef


class Stored:
    """Eight grey images of 16 x 16 pixels, in the given element type."""

    def __init__(
        self, dtype: Any = np.uint8, shape: tuple[int, ...] = (16, 16, 1), labels: Any = None
    ) -> None:
        self.labels = np.arange(8) % 2 if labels is None else labels
        self._dtype, self._shape = dtype, shape

    def image(self, index: int) -> Any:
        return np.full(self._shape, 300 if self._dtype == np.uint16 else 0.5, self._dtype)

    def __len__(self) -> int:
        return 8


def opened_data(stored: Any):
    entry = replace(DATASET, load=lambda params, split: stored)
    plugins = load_plugins(extra={"broken": plugin(entry)})
    return open_task_data(DataRef(entry="toy", params={}, choice=DataChoice(name="toy")), plugins)


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (
            Stored(np.uint16),
            "test image 0 is uint16 [16, 16, 1], not uint8 [height, width, 1 or 3] (contract: Dataset.",
        ),
        (Stored(np.float32), "test image 0 is float32 [16, 16, 1], not uint8"),
        (Stored(shape=(16, 16)), "test image 0 is uint8 [16, 16], not uint8"),
        (Stored(shape=(16, 16, 4)), "test image 0 is uint8 [16, 16, 4], not uint8"),
    ],
)
def test_images_of_another_type_are_refused_when_they_are_read(stored, reason):
    data = opened_data(stored)
    with pytest.raises(BrokenContract) as caught:
        data.test.batch([0])
    assert str(caught.value).startswith(f"{NAMED}dataset 'toy': {reason}")


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (None, "load gave NoneType, not a Dataset (contract: load gives a Dataset)"),
        (Stored(labels=np.arange(8) % 3), "train image 2 has label 2 (contract: Dataset.labels: 0 to 1)"),
        (
            Stored(labels=np.zeros(8, np.int32)),
            "train labels are int32 [8], not int64 [8] (contract: Dataset.labels",
        ),
        (Stored(labels=np.zeros((8, 1), np.int64)), "train labels are int64 [8, 1], not int64 [8]"),
        (Stored(labels=[0] * 8), "train labels are list, not int64 [8]"),
    ],
)
def test_a_split_of_another_form_is_refused_when_it_is_opened(stored, reason):
    with pytest.raises(BrokenContract) as caught:
        opened_data(stored)
    assert str(caught.value).startswith(f"{NAMED}dataset 'toy': {reason}")


def linear(inputs: int, outputs: int, bias: bool = True):
    """Return a linear layer over all inputs, flattened."""
    import torch

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(inputs, outputs, bias=bias)

        def forward(self, *values: Any) -> Any:
            return self.linear(torch.cat([value.flatten(1) for value in values], 1))

    return Linear()


def spec_of(inputs: int, outputs: int, **params: Any) -> ModuleSpec:
    return ModuleSpec(factory=f"{__name__}:linear", params={"inputs": inputs, "outputs": outputs, **params})


def model_of(outputs: int = 2, **changes: Any) -> Model:
    own = spec_of(256, outputs)
    made = {"module": own.build(), "spec": own, "input": TensorSpec(shape=(1, 16, 16)), "classes": 2}
    return Model(**{**made, **changes})


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: None, "build gave NoneType (contract: build gives a Model)"),
        (
            lambda: model_of(outputs=3),
            "model: gives (2, 3), not (2, 2) (contract: Part.output: [n, ...] as declared; logits are [n, classes])",
        ),
        (lambda: model_of(classes=3), "gives 3 classes of 2 (contract: Model.classes: those of the data)"),
        (
            lambda: model_of(input=TensorSpec(shape=(256,))),
            "takes (256,), and images are (1, 16, 16) (contract",
        ),
        (
            lambda: model_of(module=print),
            "build gave a module that is builtin_function_or_method (contract: Model.",
        ),
        (
            lambda: model_of(spec=ModuleSpec(factory=f"{__name__}:lost", params={})),
            f"model: {__name__}:lost raised AttributeError",
        ),
        (
            lambda: model_of(spec=spec_of(256, 2, bias=False)),
            f"model: the weights do not fit into what {__name__}:linear builds: linear.bias (contract: ModuleSpec",
        ),
        (
            lambda: model_of(module=linear(9, 2), spec=spec_of(9, 2)),
            "model: fails on (2, 1, 16, 16): RuntimeError",
        ),
    ],
)
def test_a_model_that_breaks_its_contract_is_refused(made, reason):
    need = load_plugins(extra={"broken": plugin(BUILD)}).models.need("toy")
    with pytest.raises(BrokenContract) as caught:
        check_model(need, made(), "build", 2, (1, 16, 16))
    assert str(caught.value).startswith(f"{NAMED}model 'toy': {reason}")


def split_of(front: int = 4, output: int = 4, **edge: Any) -> Partition:
    """Return a partition in two, whose first part gives ``front`` values and declares ``output``."""
    image = Edge(source="image", tensor=TensorSpec(shape=(1, 16, 16)))
    between = Edge(source="front", tensor=TensorSpec(shape=(output,)), **edge)

    def part(name: str, spec: ModuleSpec, inputs: Edge, size: int) -> Part:
        return Part(
            name=name, module=spec.build(), spec=spec, inputs=(inputs,), output=TensorSpec(shape=(size,))
        )

    parts = (part("front", spec_of(256, front), image, output), part("back", spec_of(4, 2), between, 2))
    return Partition(parts=parts, classes=2)


def test_a_part_of_another_size_and_parts_that_were_not_sketched_are_refused():
    need = load_plugins(extra={"broken": plugin(SPLITTER)}).partitioners.need("toy-split")
    check_partition(need, split_of(), "partition", 2, (1, 16, 16))
    with pytest.raises(BrokenContract, match=r"'toy-split': front: gives \(2, 5\), not \(2, 4\)"):
        check_partition(need, split_of(front=5), "partition", 2, (1, 16, 16))
    with pytest.raises(
        BrokenContract, match=r"'toy-split': partition gave the parts .*front.*, the sketch .*whole"
    ):
        check_sketched(need, split_of(), Sketch(parts=(PART,)))
    check_sketched(need, split_of(), Sketch(parts=(replace(PART, name="front"), BACK)))


def test_a_sketch_says_in_which_type_an_output_is_sent():
    with pytest.raises(ValueError, match="wire_dtype: 'float8'; allowed: float32, float16"):
        replace(PART, wire_dtype="float8")
    need = load_plugins(extra={"broken": plugin(SPLITTER)}).partitioners.need("toy-split")
    sketch = Sketch(parts=(replace(PART, name="front", wire_dtype="float16"), BACK))
    check_sketched(need, split_of(wire_dtype="float16"), sketch)
    with pytest.raises(BrokenContract, match="part front is sent as float32, by the sketch as float16"):
        check_sketched(need, split_of(), sketch)


def test_an_edge_knows_the_types_that_cross_a_link():
    with pytest.raises(ValueError, match="wire_dtype: 'float8'; allowed: float32, float16"):
        split_of(wire_dtype="float8")
    with pytest.raises(ValueError, match="missing: 'noise'; allowed: zeros, mean, None"):
        split_of(missing="noise")


def test_an_answer_that_is_not_finite_is_refused():
    import torch

    partition = Partition.whole(model_of())
    torch.nn.init.constant_(partition.parts[0].module.linear.weight, float("nan"))
    need = load_plugins(extra={"broken": plugin(BUILD)}).models.need("toy")
    with pytest.raises(BrokenContract, match="model 'toy': model: gives NaN or infinity"):
        run_parts(need, partition, torch.ones(1, 1, 16, 16), finite=True)


def test_a_label_beyond_the_logits_cannot_be_evaluated():
    split = ArraySplit(np.zeros((3, 4), np.float32), np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="there is a label 2, and the module gives 2 logits"):
        evaluate(linear(4, 2), split, device="cpu")


BACK = replace(PART, name="back", inputs=("front",))


IMAGE_SPEC = TensorSpec(shape=(1, 16, 16))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"path": "elsewhere"}, "whole: export wrote to "),
        ({"empty": True}, "whole: export wrote no file into "),
        (
            {"weight_bytes": 0.002},
            "whole: weight_bytes is 0.002 (contract: Artifact.weight_bytes: a whole number",
        ),
        (
            {"weight_bytes": 0},
            "whole: weight_bytes is 0 for 514 parameters; is it in MB? (contract: Artifact.weight",
        ),
        (
            {"precision": "int8"},
            "whole: the artifact says 'int8', the entry 'float32' (contract: Artifact.precision)",
        ),
        ({"runtime": "fast"}, "whole: the artifact is of 'fast' (contract: Artifact.runtime: its name)"),
        (
            {"output": TensorSpec(shape=(3,))},
            "whole: the artifact gives (3,), the part (2,) (contract: Artifact.out",
        ),
        ({"inputs": ()}, "whole: the artifact takes [], the part [(1, 16, 16)] (contract: Artifact.inputs)"),
        ({"meta": {"session": load}}, "whole: the artifact's meta is not JSON (contract: Artifact.meta"),
    ],
)
def test_an_export_that_breaks_its_contract_is_refused(tmp_path, changes, reason):
    folder = tmp_path / "parts"
    folder.mkdir()
    if not changes.pop("empty", False):
        (folder / "model.bin").write_bytes(b"weights")
    fields = {
        "path": folder,
        "runtime": "other",
        "precision": "float32",
        "weight_bytes": 2056,
        "inputs": (IMAGE_SPEC,),
        "output": TensorSpec(shape=(2,)),
    }
    changes = {name: tmp_path / value if name == "path" else value for name, value in changes.items()}
    need = load_plugins(extra={"broken": plugin(RUNTIME)}).runtimes.need("other")

    def check(artifact: Artifact) -> None:
        check_artifact(
            need,
            artifact,
            "whole",
            [IMAGE_SPEC],
            TensorSpec(shape=(2,)),
            folder,
            runtime="other",
            precision="float32",
            params=514,
        )

    with pytest.raises(BrokenContract) as caught:
        check(Artifact(**{**fields, **changes}))
    assert str(caught.value).startswith(f"{NAMED}runtime 'other': {reason}")
    (folder / "model.bin").write_bytes(b"weights")
    check(Artifact(**fields))
