"""Tests of the ONNX files that a board accepts, against the onnx package's own reader."""

from __future__ import annotations

import time

import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from harness.errors import DeviceError
from harness_remote.agent import onnx_check
from harness_remote.agent.onnx_check import check, supported


def values(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2])


def graph(nodes, initializers=(), name="g"):
    return helper.make_graph(nodes, name, [values("x")], [values("y")], initializers)


def model(nodes=None, initializers=(), opsets=(("", 18),), **fields):
    made = helper.make_model(
        graph([helper.make_node("Relu", ["x"], ["y"])] if nodes is None else nodes, initializers),
        opset_imports=[helper.make_opsetid(*one) for one in opsets],
        producer_name="me",
    )
    made.ir_version = 8
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def external(name="w"):
    tensor = helper.make_tensor(name, TensorProto.FLOAT, [2], [0.0, 1.0])
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    return tensor


def sparse(tensor):
    indices = helper.make_tensor("i", TensorProto.INT64, [2], [0, 1])
    return helper.make_sparse_tensor(tensor, indices, [4])


def inside(attribute, deep=1):
    """Return a node with the attribute, nested in ``deep`` graphs."""
    node = helper.make_node("Constant", [], ["y"])
    node.attribute.append(attribute)
    for _ in range(deep):
        outer = helper.make_node("If", ["x"], ["y"])
        outer.attribute.append(helper.make_attribute("then_branch", graph([node])))
        node = outer
    return node


@pytest.fixture
def checked(tmp_path):
    def ask(content):
        path = tmp_path / "m.onnx"
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        return check(path)

    return ask


class TestTaken:
    def test_what_it_tells(self, checked):
        made = model(opsets=[("", 18), ("com.microsoft", 1)], producer_version="2.1")
        assert checked(made) == {
            "ir_version": 8,
            "opsets": {"": 18, "com.microsoft": 1},
            "producer": "me 2.1",
        }

    def test_onnx_goes_by_two_names(self, checked):
        assert checked(model(opsets=[("ai.onnx", 17)]))["opsets"] == {"": 17}

    def test_tensors_of_its_own_wherever_they_stand(self, checked):
        tensor = helper.make_tensor("w", TensorProto.FLOAT, [2], [0.0, 1.0])
        attributes = [tensor, [tensor], sparse(tensor), graph([]), [graph([])]]
        nodes = [inside(helper.make_attribute(f"a{i}", value), deep=3) for i, value in enumerate(attributes)]
        assert checked(model(nodes, [tensor]))["ir_version"] == 8

    def test_nesting_that_is_deep_but_admitted(self, checked):
        assert checked(model([inside(helper.make_attribute("i", 1), deep=19)]))


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (model(initializers=[external()]), "other files"),
        (model([inside(helper.make_attribute("t", external()))]), "other files"),
        (model([inside(helper.make_attribute("t", external()), deep=5)]), "other files"),
        (model([inside(helper.make_attribute("t", [external()]))]), "other files"),
        (model([inside(helper.make_attribute("t", sparse(external())))]), "other files"),
        (model([inside(helper.make_attribute("t", [sparse(external())]))]), "other files"),
        (model([inside(helper.make_attribute("g", [graph([], [external()])]))]), "other files"),
        (model([helper.make_node("F", ["x"], ["y"], domain="my.ops")]), "operators of 'my.ops'"),
        (model([helper.make_node("F", ["x"], ["y"], domain="ai.onnx.contrib")]), "'ai.onnx.contrib'"),
        (model(opsets=[("", 18), ("evil", 1)]), "operators of 'evil'"),
        (model([helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")]), "operator EPContext"),
        (model([inside(helper.make_attribute("i", 1), deep=30)]), "nested more than 64 deep"),
        (model(ir_version=0), "no IR version"),
        (model(opsets=[("com.microsoft", 1)]), "opset"),
        (onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 18)]), "graph"),
        (b"", "not an ONNX model"),
        (b"\x80", "not laid out"),
        (b"hello, world", "not an ONNX model"),
        (b"\x80\x04\x95.", "not an ONNX model"),  # a pickle
        (b"PK\x03\x04" + bytes(100), "not an ONNX model"),
        (bytes(100), "not laid out"),
    ],
)
def test_refused(checked, made, why):
    with pytest.raises(DeviceError, match=why):
        checked(made)


def test_functions_and_training_are_refused(checked):
    made = model()
    made.functions.append(
        helper.make_function("local", "f", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [])
    )
    with pytest.raises(DeviceError, match="functions of its own"):
        checked(made)
    made = model()
    made.training_info.add()
    with pytest.raises(DeviceError, match="training"):
        checked(made)


def test_external_data_without_its_location_flag_and_the_flag_without_data(checked):
    only_data, only_flag = external(), external()
    only_data.ClearField("data_location")
    del only_flag.external_data[:]
    for tensor in (only_data, only_flag):
        with pytest.raises(DeviceError, match="other files"):
            checked(model(initializers=[tensor]))


def test_a_second_graph_is_merged_by_protobuf_and_so_is_read_too(checked):
    second = onnx.ModelProto(graph=onnx.GraphProto(initializer=[external()])).SerializeToString()
    with pytest.raises(DeviceError, match="other files"):
        checked(model().SerializeToString() + second)


def test_no_message_names_the_file(tmp_path):
    with pytest.raises(DeviceError) as caught:
        check(tmp_path / "absent.onnx")
    assert "absent" not in str(caught.value)


def test_a_file_of_nothing_but_small_fields_is_given_up_soon(checked):
    began = time.perf_counter()
    with pytest.raises(DeviceError, match="more than 500000 fields"):
        checked(model().SerializeToString() + b"\x28\x00" * (onnx_check.MAX_FIELDS + 1))
    assert time.perf_counter() - began < 30


SEED = model(
    [
        inside(helper.make_attribute("t", helper.make_tensor("c", TensorProto.FLOAT, [2], [1, 2])), deep=2),
        helper.make_node("Relu", ["x"], ["y"]),
    ],
    [helper.make_tensor("w", TensorProto.FLOAT, [2], [0.0, 1.0])],
    opsets=[("", 18), ("com.microsoft", 1)],
).SerializeToString()
BAD = model(
    [
        inside(helper.make_attribute("t", external()), deep=2),
        helper.make_node("F", ["x"], ["y"], domain="my.ops"),
    ],
    [external()],
).SerializeToString()


@st.composite
def mutated(draw):
    """Return a good or a bad model with some bytes changed, removed or added."""
    content = bytearray(draw(st.sampled_from([SEED, BAD])))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 3))
        content[at : at + length] = draw(st.binary(max_size=3) | st.sampled_from([SEED[:40], BAD[-60:]]))
    return bytes(content)


def has_what_is_refused(made):
    """Return whether any part of the message must be refused, by the onnx package's own classes."""
    if made.DESCRIPTOR.name == "TensorProto" and (made.external_data or made.data_location):
        return True
    if made.DESCRIPTOR.name in ("NodeProto", "OperatorSetIdProto") and (
        made.domain.encode() not in onnx_check.DOMAINS
    ):
        return True
    if made.DESCRIPTOR.name in ("FunctionProto", "TrainingInfoProto"):
        return True
    for field, value in made.ListFields():
        if field.message_type is not None:
            repeated = value if hasattr(value, "__len__") and not hasattr(value, "ListFields") else [value]
            if any(has_what_is_refused(one) for one in repeated):
                return True
    return False


@settings(max_examples=250)
@given(content=mutated() | st.binary(max_size=200))
def test_any_content_is_refused_or_safe(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "fuzzed.onnx"
    path.write_bytes(content)
    try:
        checked = check(path)
    except DeviceError:
        return
    try:
        made = onnx.ModelProto.FromString(content)
    except Exception:  # noqa: BLE001 - the parser's own errors: it is not loaded then either
        return
    assert not has_what_is_refused(made)
    assert checked["ir_version"] == made.ir_version


class TestSupported:
    def test_the_table(self):
        assert supported("1.15.1") == (19, 8)
        assert supported("1.22.0") == (23, 11)
        assert supported("1.99.0") == (23, 11)
        assert supported("1.18.0+jetson") == (21, 10)

    @pytest.mark.parametrize("version", ["", "x", "1", "one.two", "1.9.0", "0.4"])
    def test_others(self, version):
        with pytest.raises(DeviceError, match="onnxruntime"):
            supported(version)

    def test_it_grows_with_the_version_and_this_onnxruntime_agrees(self, tmp_path):
        lines = [supported(f"1.{minor}.0") for minor in range(10, 30)]
        assert lines == sorted(lines)
        opset, ir_version = supported(onnxruntime.__version__)
        made = model(opsets=[("", opset)], ir_version=ir_version)
        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        assert session.get_inputs()[0].name == "x"
