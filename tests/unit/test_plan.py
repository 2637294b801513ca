"""Tests of planning: nodes, cells, their order, keys and reasons."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import SuiteError
from harness.hookspecs import hookimpl
from harness.plan.estimate import Assumptions, estimates
from harness.plan.planner import make_plan
from harness.plan.schema import suite_schema
from harness.plugins import load_plugins
from harness.store.artifacts import Store
from harness.suite.loading import load_suite
from harness.suite.shipped import shipped_suites
from harness.suite.suite import Suite
from harness.types import BackendEntry, DeviceInfo
from harness.types.plain import from_json
from harness.types.plan import Cell, Node, PrepareHost

SUITE = """\
suite: mine
data: {name: digits, image_size: 16}
seeds: [3, 1]
defaults: {train: {epochs: 3}}
measure: {repeats: 2}
methods:
  cloud: {build: {vit: {patch_size: 4, dim: 24, depth: 3, heads: 3}}}
  edge-${k}:
    grid: {k: [1, 2]}
    from: cloud
    compress: [{edgevit: {blocks: "${k}"}}]
  edge-1-int8: {from: edge-1, runtime: onnxruntime-int8}
  again: {from: edge-1-int8}
  cut:
    from: cloud
    partition: {pipeline: {after: 1}}
devices:
  here: {backend: cpu}
  pair: {fleet: [here, here]}
run:
  - {methods: all, devices: [here]}
  - {methods: [cut, cloud], devices: [pair]}
"""


@pytest.fixture(scope="module")
def plugins():
    return load_plugins()


@pytest.fixture
def plan(plugins, tmp_path):
    def make(text=SUITE, overrides=(), host=None, only=()):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return make_plan(load_suite(path, overrides), plugins, host or PrepareHost(torch="1"), only).plan

    return make


def stages(made, stage):
    return [node for node in made.nodes.values() if node.stage == stage]


def test_a_shared_step_stands_once_and_after_its_inputs(plan):
    made = plan()
    assert len(stages(made, "build")) == 2  # one CloudViT per seed for all methods
    assert len(stages(made, "compress")) == 4
    assert len(stages(made, "data")) == 1
    assert len(stages(made, "export")) == 2 * 5  # cloud, edge-1, edge-2, edge-1 in int8, cut
    seen = set()
    for key, node in made.nodes.items():
        assert set(node.inputs) <= seen
        seen.add(key)


def test_cells_are_distinct_and_every_method_comes_before_any_comes_again(plan):
    made = plan()
    assert len({cell.id for cell in made.cells}) == len(made.cells)
    rounds = [(cell.repeat, cell.seed) for cell in made.cells]
    assert rounds == sorted(rounds, key=lambda r: (r[0], [3, 1].index(r[1])))
    assert {(cell.seed, cell.repeat) for cell in made.cells} == {(3, 0), (3, 1), (1, 0)}


def test_a_runtime_is_inherited(plan):
    runtimes = {cell.method: cell.task.runtime.name for cell in plan().cells}
    assert runtimes["edge-1"] == "onnxruntime"
    assert runtimes["edge-1-int8"] == runtimes["again"] == "onnxruntime-int8"


def test_what_cannot_be_is_listed_with_its_reason(plan):
    impossible = {cell.method: cell.impossible for cell in plan().cells if cell.impossible}
    assert set(impossible) == {"cloud"}
    assert "only a split model" in impossible["cloud"]


def test_a_fleet_is_placed_and_one_device_holds_all(plan):
    placements = {cell.task.device: cell.task.placement for cell in plan().cells if cell.method == "cut"}
    assert placements == {"here": {"front": 0, "back": 0}, "pair": {"front": 1, "back": 0}}


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("measure.min_time=9s", {"build", "compress", "partition", "export", "data"}),
        ("defaults.threads=2", {"build", "compress", "partition", "export", "data"}),
        ("methods.edge-2.compress.0.edgevit.train=all", {"build", "partition", "data"}),
        ("defaults.train.lr=0.5", {"data"}),
        ("prepare.threads=2", {"data"}),
        ("prepare.processes=2", {"data"}),
        ("data.image_size=24", set()),
    ],
)
def test_keys_follow_what_they_rest_on(plan, override, kept):
    before, after = plan(), plan(overrides=[override])
    same = {
        stage
        for stage in ("build", "compress", "partition", "export", "data")
        if {n.key for n in stages(before, stage)} == {n.key for n in stages(after, stage)}
    }
    assert same == kept
    assert {cell.id for cell in before.cells} != {cell.id for cell in after.cells}


def test_keys_follow_the_machine(plan):
    keys = [
        frozenset(node.key for node in stages(plan(host=host), "build"))
        for host in (
            PrepareHost(torch="1"),
            PrepareHost(torch="2"),
            PrepareHost(torch="1", capability="avx2"),
            PrepareHost(torch="1", device="cuda:0", gpu="X"),
        )
    ]
    assert len(set(keys)) == 4


def test_keys_follow_the_content_of_a_weights_file(plan, tmp_path):
    weights = tmp_path / "weights.safetensors"
    text = SUITE.replace(
        "vit: {patch_size: 4, dim: 24, depth: 3, heads: 3}",
        f"timm: {{name: vit_tiny_patch16_224, weights: {weights}}}",
    ).replace("image_size: 16", "image_size: 32")
    keys = []
    for content in (b"one", b"two", b"one"):
        header = b'{"norm.weight":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}'
        weights.write_bytes(len(header).to_bytes(8, "little") + header + content)
        keys.append({node.key for node in stages(plan(text), "build")})
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]


PRETRAINED = """\
suite: mine
data: {name: synthetic, num_classes: 4}
defaults: {train: {epochs: 0}}
methods:
  cloud: {build: {timm: {name: vit_tiny_patch16_224, pretrained: true}}}
  edge: {from: cloud, compress: [{edgevit: {blocks: 2}}], train: {epochs: 1}}
  again: {from: cloud}
devices: {here: {backend: cpu}}
run: [{methods: [edge], devices: [here]}]
"""


def test_a_new_head_that_nothing_trains_is_refused_in_planning(plan):
    for method in ("cloud", "again"):
        with pytest.raises(
            SuiteError, match=r"defaults\.train\.epochs: 0 leaves the head of .* random: it is new: "
        ) as e:
            plan(PRETRAINED.replace("[edge]", f"[{method}]"))
        assert "\n" not in str(e.value)
    assert plan(PRETRAINED).cells  # the compressor trains a head of its own
    plan(PRETRAINED.replace("[edge]", "[cloud]"), overrides=["defaults.train.epochs=1"])


def test_differences_from_the_weights_are_warned_of(plan):
    (warning,) = plan(PRETRAINED).warnings
    assert warning.startswith("edge: the head is new: ")
    assert "image_size" not in warning
    text = PRETRAINED.replace("synthetic,", "synthetic, image_size: 32, normalize: imagenet,")
    (warning,) = plan(text).warnings
    assert "image_size 32, the weights expect 224; normalize imagenet, the weights expect half" in warning


def test_a_warning_about_many_methods_names_the_first_ones(plan):
    many = "".join(f"  edge-{i}: {{from: edge}}\n" for i in range(8))
    text = PRETRAINED.replace("devices:", f"{many}devices:", 1).replace(
        "methods: [edge]", "methods: ['edge*']"
    )
    (warning,) = plan(text).warnings
    assert warning.startswith("edge, edge-0, edge-1, edge-2, edge-3 and 4 more methods: the head is new: ")


def test_weights_give_their_preprocessing_and_it_is_in_every_key(plan):
    one = plan(PRETRAINED)
    choice = one.cells[0].task.data.choice
    assert (choice.image_size, choice.interpolation, choice.crop_pct, choice.normalize) == (
        224,
        "bicubic",
        0.9,
        "half",
    )
    for change in (
        "crop_pct=0.8",
        "interpolation=bilinear",
        "normalize=imagenet",
        "crop_mode=squash",
        "image_size=32",
    ):
        other = plan(PRETRAINED, overrides=[f"data.{change}"])
        assert not set(one.nodes) & set(other.nodes)
        assert one.cells[0].id != other.cells[0].id


def test_planning_imports_neither_torch_nor_numpy(tmp_path):
    (tmp_path / "mine.yaml").write_text(PRETRAINED)
    code = (
        "import sys\n"
        "from harness.cli import cli\n"
        "cli(['plan', 'mine.yaml'], standalone_mode=False)\n"
        "print(sorted({'torch', 'numpy', 'timm', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_schema_has_all_that_it_refers_to(plugins):
    schema = suite_schema(plugins)
    referred = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema)))
    assert "Scale" in referred
    assert referred <= schema["$defs"].keys()


def test_a_model_that_timm_lacks_is_refused_in_planning(plan):
    with pytest.raises(
        SuiteError, match=r"methods\.cloud\.build\.timm: unknown timm model 'vit_tiny_patch16_223': did"
    ):
        plan(PRETRAINED.replace("patch16_224", "patch16_223"))
    with pytest.raises(SuiteError, match=r"timm\.model: unknown key; did you mean 'name'"):
        plan(PRETRAINED.replace("name: vit", "model: vit"))


def test_seeds_make_keys_and_nothing_else_of_a_method_does(plan):
    assert {n.key for n in plan().nodes.values()} == {n.key for n in plan().nodes.values()}
    one = plan(overrides=["seeds=[3]"])
    assert {n.key for n in one.nodes.values()} < {n.key for n in plan().nodes.values()}


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream"])
def test_nodes_and_cells_are_json_and_back(plan, scenario):
    made = plan(overrides=[f"measure.scenario={scenario}", "measure.sustained=2min"])
    text = json.loads(json.dumps(made.to_json()))
    assert text["cells"][0]["id"] == made.cells[0].id
    assert tuple(from_json(Cell, cell) for cell in text["cells"]) == made.cells
    assert tuple(from_json(Node, node) for node in text["nodes"]) == tuple(made.nodes.values())


def test_a_device_is_described_once_for_a_plan_and_its_estimates(tmp_path):
    described = []

    def describe(spec):
        described.append(spec.name)
        return DeviceInfo(name=spec.name, backend="toy", model="T", kind="cpu", cores=1, memory_bytes=1)

    class Toy:
        @hookimpl
        def harness_backends(self):
            yield BackendEntry(
                name="toy", summary="for tests", probe=list, describe=describe, open=lambda spec: None
            )

    path = tmp_path / "mine.yaml"
    path.write_text(SUITE.replace("backend: cpu", "backend: toy"))
    planned = make_plan(load_suite(path), load_plugins(extra={"toy": Toy()}), PrepareHost(torch="1"))
    estimates(planned, Store(tmp_path / "cache"), Assumptions())
    assert described == ["here"]


def test_only_keeps_what_matches_and_what_it_rests_on(plan):
    made = plan(only=["edge-*"])
    assert {cell.method for cell in made.cells} == {"edge-1", "edge-2", "edge-1-int8"}
    assert stages(made, "build")
    assert not stages(made, "partition")
    assert {cell.method for cell in plan(only=["edge-1", "edge-2"]).cells} == {"edge-1", "edge-2"}


def test_another_data_set_needs_a_compressor_that_can(plan):
    moved = SUITE.replace(
        '    compress: [{edgevit: {blocks: "${k}"}}]',
        '    data: {classes: [1, 2, 3]}\n    compress: [{edgevit: {blocks: "${k}"}}]',
    )
    made = plan(moved)
    assert {cell.task.data.classes for cell in made.cells if cell.method == "edge-2"} == {3}
    assert {cell.task.data.classes for cell in made.cells if cell.method == "cloud"} == {10}
    wrong = SUITE.replace(
        "    partition: {pipeline", "    data: {classes: [1, 2, 3]}\n    partition: {pipeline"
    )
    with pytest.raises(SuiteError, match=r"cannot move to another data set; compressors that can: .*edgevit"):
        plan(wrong)


def test_a_split_model_is_split_once_and_compressed_part_by_part(plan):
    twice = SUITE.replace("devices:\n", "  cut2: {from: cut, partition: {pipeline: {after: 1}}}\ndevices:\n")
    with pytest.raises(SuiteError, match="'cut' is split already"):
        plan(twice)
    whole = SUITE.replace("devices:\n", "  cut2: {from: cut, compress: [{edgevit: {blocks: 1}}]}\ndevices:\n")
    with pytest.raises(SuiteError, match="add each_part: true"):
        plan(whole)


@pytest.mark.parametrize(  # those of boards need an inventory that has them
    "name", sorted(name for name in shipped_suites() if not name.startswith("boards/"))
)
def test_shipped_suites_plan(plugins, name):
    made = make_plan(load_suite(shipped_suites()[name]), plugins, PrepareHost()).plan
    assert made.cells
    assert made.missing_data == () or name == "cifar10" or name.startswith("papers/")


def test_cifar10_takes_a_folder_of_parquet_files(plugins, real_data):
    suite = load_suite(shipped_suites()["cifar10"], [f"data.path={real_data / 'cifar10'}"])
    made = make_plan(suite, plugins, PrepareHost()).plan
    assert made.missing_data == ()
    assert {cell.task.data.classes for cell in made.cells} == {10}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_a_suite_or_one_clear_error(tmp_path, content):
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    refused_or_good(path, [])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60))
def test_any_set_is_taken_or_one_clear_error(tmp_path, override):
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE)
    refused_or_good(path, [override])


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({})
)


@pytest.mark.parametrize("key", ["[", "str", "int[x]"])
def test_a_key_that_reads_like_pydantics_own_words_is_named(plan, key):
    with pytest.raises(SuiteError, match=rf"mine.yaml:1: {re.escape(key)}: unknown key"):
        plan(SUITE.replace("suite: mine", f"{json.dumps(key)}: 1\nsuite: mine"))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_mutation_of_a_suite_plans_or_is_one_clear_error(plugins, tmp_path, data):
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    tree = yaml.load(SUITE)
    place = tree
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    how = data.draw(st.sampled_from(["delete", "change", "rename"]))
    value = place[key]
    if how == "change" or not isinstance(place, dict):
        place[key] = data.draw(VALUES)
    else:
        del place[key]
        if how == "rename":
            place[data.draw(st.text(max_size=6))] = value
    path = tmp_path / "mutated.yaml"
    with path.open("w") as file:
        yaml.dump(tree, file)
    suite = refused_or_good(path, [])
    if suite is not None:
        one_line(lambda: make_plan(suite, plugins, PrepareHost()).plan)


def refused_or_good(path: Path, overrides: list[str]) -> Suite | None:
    return one_line(lambda: load_suite(path, overrides))


def one_line(call):
    """Return the result of ``call``, or None if it refuses in one line. Any other error fails the test."""
    try:
        return call()
    except SuiteError as error:
        text = str(error)
    assert "\n" not in text
    return None
