"""One command of each kind that an agent accepts, as JSON, and JSON values that differ from them."""

from __future__ import annotations

from hypothesis import strategies as st

from harness.types import Graph, GraphPart, TensorSpec, Workload
from harness.worker.commands import Begin, End
from harness_remote.wire import codec
from harness_remote.wire.commands import (
    InferFile,
    Join,
    LoadFile,
    MeasureFile,
    Neighbour,
    Open,
    Serve,
    ShippedArtifact,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
GRAPH = Graph(
    parts=(
        GraphPart(name="a", inputs=("image",), output=TensorSpec(shape=(3,)), stand_ins={"image": (0.5,)}),
        GraphPart(name="b", inputs=("a", "image"), output=TensorSpec(shape=(2,))),
    )
)
ARTIFACT = ShippedArtifact(
    precision="float32",
    weight_bytes=8,
    inputs=(TensorSpec(shape=(4,)),),
    output=TensorSpec(shape=(3,)),
    meta={"file": "m.onnx", "opset": 18},
)
COMMANDS = [
    Open(1, ("a",)),
    LoadFile(part="a", runtime="onnxruntime", sha256="f" * 64, artifact=ARTIFACT, device="cpu"),
    Serve(),
    Join(GRAPH, (Neighbour(device="b", parts=("b",), target="b:1", certificate="", ticket="t"),)),
    InferFile("f" * 64, 2, ("a",)),
    MeasureFile("f" * 64, Workload()),
    Begin(),
    End({"load": (1, 2)}, 3, 4),
]
TEXTS = {type(command).__name__: codec.to_json(command) for command in COMMANDS}


@st.composite
def altered(draw, value):
    """Return a JSON value with one of its parts replaced, removed or added."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        kept = {name: one for name, one in value.items() if name != key}
        return {**kept, draw(st.sampled_from([key, key, key, "other"])): draw(altered(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        return [*value[:-1], draw(altered(value[-1]))] * draw(st.sampled_from([1, 1, 2]))
    return draw(JSON)
