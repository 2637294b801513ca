"""Tests of pretrained weights: what timm names, what files state, how heads and channels fit the data, and the hub."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from harness.types import DataInfo, Model
from harness_timm import catalogue, plugin
from harness_timm.head import declared_head, matched_head
from harness_timm.models import keep_rows
from harness_timm.source import heads_of
from harness_timm.weights import read_checkpoint

TINY = {"name": "vit_tiny_patch16_224", "args": {"depth": 2}}
NAMES = ("ant", "bee", "cat", "dog", "eel")


def info(names: tuple[str, ...] = NAMES, channels: int = 3) -> DataInfo:
    values = (0.5,) * channels
    return DataInfo(
        name="toy", shape=(channels, 32, 32), class_names=names, sizes={}, mean=values, std=values
    )


def build(data: DataInfo, seed: int = 0, **params: Any) -> Model:
    ctx: Any = SimpleNamespace(data=SimpleNamespace(info=data), seed=seed)
    model = plugin.build_timm(ctx, plugin.TimmParams(**params))
    model.module.eval()
    return model


def trained(names: tuple[str, ...] = NAMES, channels: int = 3) -> dict[str, torch.Tensor]:
    return build(info(names, channels), seed=9, **TINY).module.state_dict()


def logits(model: Model) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return model.module(torch.randn(2, *model.input.shape))


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """Weights of five classes, which their metadata names."""
    file = tmp_path / "named.safetensors"
    save_file(trained(), file, metadata={"label_names": json.dumps(NAMES)})
    return file


# --- what timm has --------------------------------------------------------------------------------


def test_names_and_configurations_are_those_of_the_imported_timm() -> None:
    from timm.models import _registry

    known = catalogue.listing()
    assert known is not None
    assert set(known.files) == set(timm.list_models())
    assert dict(known.renamed) == _registry._deprecated_models
    wrong = [
        name
        for name in timm.list_models(include_tags=True)
        if (cfg := timm.get_pretrained_cfg(name)) is not None
        and asdict(cfg) != asdict(catalogue.pretrained_cfg(name))
    ]
    assert not wrong
    bare = [
        name
        for name in timm.list_models()
        if (cfg := timm.get_pretrained_cfg(name)) is not None
        and asdict(cfg) != asdict(catalogue.pretrained_cfg(name))
    ]
    assert not bare


def test_planning_with_weights_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from harness_timm import plugin; from harness.types import DataInfo\n"
        "data = DataInfo(name='x', shape=(3, 8, 8), class_names=('tench', 'beer_glass'), sizes={}, mean=(), std=())\n"
        "params = plugin.TimmParams(name='vit_tiny_patch16_224', pretrained=True)\n"
        "plugin.describe_timm(plugin.TimmParams(name='resnet18.a1_in1k'), data)\n"
        "print(plugin.timm_preprocessing(params).crop_pct, plugin.timm_weights(params, data).new_head)\n"
        "print(sorted({'torch', 'numpy', 'timm', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split("\n")[:2] == ["0.9 False", "[]"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"name": "vit_bse_patch16_224"}, "unknown timm model 'vit_bse_patch16_224': did you mean vit_base_"),
        ({"name": "resnet18.nope"}, "unknown timm model 'resnet18.nope': did you mean resnet18.tv"),
        ({"name": "tf_efficientnet_b0_ap"}, "timm calls it tf_efficientnet_b0.ap_in1k now"),
        ({"name": "hf-hub:timm/resnet18"}, "unknown timm model"),
        (
            {"name": "vit_base_patch16_gap_224", "pretrained": True},
            "timm has no weights for 'vit_base_patch16_gap",
        ),
    ],
)
def test_what_timm_lacks_is_refused_in_planning(params: dict[str, Any], message: str) -> None:
    given = plugin.TimmParams(**params)
    with pytest.raises(ValueError, match=message) as caught:
        plugin.timm_preprocessing(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["vit_small_patch14_dinov2", "beit_base_patch16_224", "swin_tiny_patch4_window7_224"]
)
def test_the_patches_of_a_name_are_those_of_the_model(name: str) -> None:
    with torch.device("meta"):
        embedding = timm.create_model(name).patch_embed
    assert embedding.patch_size == (catalogue.fixed_patch(name),) * 2


@pytest.mark.parametrize(
    "name", ["resnet18", "naflexvit_base_patch16_gap", "tnt_s_patch16_224", "convit_tiny"]
)
def test_models_that_take_any_size_have_no_fixed_patch(name: str) -> None:
    assert catalogue.fixed_patch(name) is None


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_removed(prefix: str, tmp_path: Path) -> None:
    state = trained()
    file = tmp_path / "wrapped.safetensors"
    save_file({prefix + name: tensor for name, tensor in state.items()}, file)
    loaded = build(info(), weights=str(file), head="in-order", **TINY).module.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_a_file_with_another_suffix_is_read_as_safetensors(named: Path) -> None:
    other = named.rename(named.with_suffix(".weights"))
    assert torch.equal(
        logits(build(info(), weights=str(other), **TINY)), logits(build(info(), seed=9, **TINY))
    )


def damaged(kind: str, whole: bytes) -> bytes:
    if kind == "lfs":
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 5\n"
    length = int.from_bytes(whole[:8], "little")
    return {
        "empty": b"",
        "html": b"<!doctype html><title>Sign in</title>",
        "pickle": b"PK\x03\x04" + b"\0" * 60,
        "cut header": whole[: 8 + length // 2],
        "cut tensors": whole[:-5],
        "longer": whole + b"more",
        "no json": whole[:8] + b"x" * length + whole[8 + length :],
        "huge header": (2**62).to_bytes(8, "little") + whole[8:],
        "deep": (40_000).to_bytes(8, "little") + b"[" * 40_000,
        "number": (2).to_bytes(8, "little") + b"17",
        "no offsets": (12).to_bytes(8, "little") + b'{"a":{"b":1}}'[:12],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("lfs", "is a Git LFS pointer, not the weights; run `git lfs pull`"),
        ("empty", "its 0 bytes do not begin with a header"),
        ("html", "bytes do not begin with a header"),
        ("pickle", "it is a pickle or a zip"),
        ("cut header", "it is cut short"),
        ("cut tensors", "it is cut short"),
        ("longer", "followed by other bytes"),
        ("no json", "its header is damaged"),
        ("huge header", "do not begin with a header"),
        ("deep", "its header is damaged"),
        ("number", "its header is damaged"),
        ("no offsets", "its header is damaged"),
    ],
)
def test_a_damaged_file_is_one_line_in_planning(kind: str, message: str, named: Path, tmp_path: Path) -> None:
    file = tmp_path / "damaged.safetensors"
    file.write_bytes(damaged(kind, named.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        plugin.describe_timm(plugin.TimmParams(weights=str(file), **TINY), info())
    assert str(caught.value).startswith(f"weights: {file} is ")
    assert "\n" not in str(caught.value)


def header_only(path: Path, **shapes: object) -> Path:
    tensors = {
        name: {"dtype": "U8", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()
    }
    header = json.dumps(tensors).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


def test_shapes_that_no_head_has_are_one_line_or_no_head(tmp_path: Path) -> None:
    scalar = read_checkpoint(header_only(tmp_path / "a", **{"head.weight": []}))
    assert scalar.rows(("head",)) == 0
    for shape in ([-1, 4], [True], ["4"], 4, None):
        with pytest.raises(ValueError, match="its header is damaged"):
            read_checkpoint(header_only(tmp_path / "b", **{"head.weight": shape}))


def test_long_names_are_cut_in_messages() -> None:
    text = matched_head(("x" * 10_000, "y"), "toy", [("a", "b")]).text
    assert len(text) < 200


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("pipe", "not a regular file"),
        ("", "not a regular file"),
        ("gone", "there is no file"),
    ):
        with pytest.raises(ValueError, match=message):
            read_checkpoint(tmp_path / name)


# --- classes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["metadata", "id2label", "config", "inner config"])
def test_classes_are_matched_by_the_names_that_the_weights_state(place: str, tmp_path: Path) -> None:
    file, state = tmp_path / "w.safetensors", trained()
    numbered = {str(row): name for row, name in enumerate(NAMES)}
    metadata = {"metadata": {"classes": json.dumps(NAMES)}, "id2label": {"id2label": json.dumps(numbered)}}
    save_file(state, file, metadata=metadata.get(place))
    config = {"config": {"label_names": NAMES}, "inner config": {"pretrained_cfg": {"label_names": NAMES}}}
    if place in config:
        (tmp_path / "config.json").write_text(json.dumps(config[place]))
    swapped = ("Eel", "bee", "ant")
    params = plugin.TimmParams(weights=str(file), **TINY)
    weights = plugin.timm_weights(params, info(swapped))
    assert weights is not None
    assert not weights.new_head
    assert weights.head == "3 of the weights' 5 classes, by name"
    whole = logits(build(info(), seed=9, **TINY))
    assert torch.allclose(
        logits(build(info(swapped), weights=str(file), **TINY)), whole[:, [4, 1, 0]], atol=1e-6
    )


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"label_names": 3}', '{"id2label": {"a": "b"}}', '{"label_names": ["x"]}']
)
def test_a_config_that_names_no_fitting_classes_makes_a_new_head(text: str, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file(trained(), file)
    (tmp_path / "config.json").write_text(text)
    weights = plugin.timm_weights(plugin.TimmParams(weights=str(file), **TINY), info())
    assert weights is not None
    assert weights.new_head
    assert weights.head == "new: the weights do not name their classes"


def test_a_new_head_is_of_the_seed_and_the_rest_of_the_weights(named: Path) -> None:
    state = trained()
    one, again, other = (
        build(info(("x", "y")), seed=seed, weights=str(named), **TINY).module.state_dict()
        for seed in (1, 1, 2)
    )
    assert one["head.weight"].shape[0] == 2
    assert torch.equal(one["head.weight"], again["head.weight"])
    assert not torch.equal(one["head.weight"], other["head.weight"])
    assert all(
        torch.equal(one[name], tensor) for name, tensor in state.items() if not name.startswith("head.")
    )


def test_weights_without_a_head_say_so(tmp_path: Path) -> None:
    file = tmp_path / "bare.safetensors"
    save_file({name: tensor for name, tensor in trained().items() if not name.startswith("head.")}, file)
    weights = plugin.timm_weights(plugin.TimmParams(weights=str(file), **TINY), info())
    assert weights is not None
    assert (weights.new_head, weights.head) == (True, "new: the weights have none")
    with pytest.raises(ValueError, match="head: the weights have no head"):
        plugin.timm_weights(plugin.TimmParams(weights=str(file), head="in-order", **TINY), info())


@pytest.mark.parametrize(("head", "rows"), [({"x": 4, "y": "bee"}, [4, 1]), ({"x": "DOG", "y": 0}, [3, 0])])
def test_a_declared_map_chooses_rows(head: Any, rows: list[int], named: Path) -> None:
    whole = logits(build(info(), seed=9, **TINY))
    chosen = build(info(("x", "y")), weights=str(named), head=head, **TINY)
    assert torch.allclose(logits(chosen), whole[:, rows], atol=1e-6)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"x": 0}, "class 'y' of toy has no class of the weights"),
        ({"x": 0, "y": 1, "z": 2}, "toy has no class 'z'"),
        ({"x": 0, "y": 5}, "5 is no row of the weights; allowed: 0 to 4"),
        ({"x": 0, "y": -1}, "-1 is no row of the weights"),
        ({"x": 0, "y": "dgo"}, "the weights have no class 'dgo'; did you mean 'dog'"),
        ({"x": 3, "y": "dog"}, "two classes have the same row"),
        ("in-order", "the weights have 5 classes, toy has 2"),
    ],
)
def test_a_wrong_declared_head_is_one_line(head: Any, message: str, named: Path) -> None:
    with pytest.raises(ValueError, match=message):
        plugin.timm_weights(plugin.TimmParams(weights=str(named), head=head, **TINY), info(("x", "y")))


@pytest.mark.parametrize(
    "given", [{"head": "new"}, {"pretrained": True, "head": "in order"}, {"head": {"a": 1.5}}]
)
def test_a_head_that_means_nothing_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plugin.TimmParams(name="resnet18", **given)


def test_numbers_as_class_names_are_names() -> None:
    params = plugin.TimmParams(name="resnet18", pretrained=True, head={7: "tench"})
    assert params.head == {"7": "tench"}


def test_ambiguous_names_make_a_new_head_unless_all_are_the_same_in_order() -> None:
    doubled = ("crane", "crane", "maillot")
    assert matched_head(doubled, "toy", [doubled]).rows == (0, 1, 2)
    once = matched_head(("crane", "maillot"), "toy", [doubled])
    assert once.rows is None
    assert once.text == "new: the weights name several classes 'crane'"
    with pytest.raises(ValueError, match="name 2 classes 'crane'; give the row"):
        declared_head({"x": "crane"}, ("x",), "toy", 3, [doubled])


def test_imagenet_weights_of_timm_are_matched_by_synset_or_words() -> None:
    params = plugin.TimmParams(name="resnet18", pretrained=True)
    imagenette = ("n01440764", "n02102040", "n02979186")
    for names in (
        imagenette,
        ("tench", "English springer", "cassette_player"),
        ("tench, Tinca tinca", "chain saw, chainsaw"),
    ):
        weights = plugin.timm_weights(params, info(names))
        assert weights is not None
        assert not weights.new_head
    digits = plugin.timm_weights(params, info(tuple("0123456789"), channels=1))
    assert digits is not None
    assert digits.new_head
    assert digits.head.startswith(
        "new: 10 of 10 classes of toy are not among the weights' 1000 ('0', '1', '2' ...)"
    )
    assert digits.adapted == ("input channels adapted from 3 to 1 by timm",)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("vit_tiny_patch16_224", {"depth": 1}),
        ("deit_tiny_distilled_patch16_224", {"depth": 1}),
        ("resnet10t", {}),
        ("mobilenetv3_small_050", {}),
        ("convnext_atto", {}),
        ("levit_128s", {}),
        ("efficientformer_l1", {}),
        ("crossvit_tiny_240", {}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1), "num_heads": (2, 2), "embed_dim": 16}),
        ("regnetx_002", {}),
        ("test_nfnet", {}),
    ],
)
def test_a_chosen_head_answers_as_its_rows_did(name: str, args: dict[str, Any]) -> None:
    torch.manual_seed(0)
    size = timm.get_pretrained_cfg(name).input_size[1]
    model = timm.create_model(name, num_classes=12, **args).eval()
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        before = model(images)
        keep_rows(model, [7, 0, 11], 12, heads_of(timm.get_pretrained_cfg(name)))
        assert torch.allclose(model.eval()(images), before[:, [7, 0, 11]], atol=1e-5)


# --- channels -------------------------------------------------------------------------------------


def test_channels_are_adapted_and_that_is_said(named: Path) -> None:
    params = plugin.TimmParams(weights=str(named), **TINY)
    weights = plugin.timm_weights(params, info(channels=1))
    assert weights is not None
    assert "input channels adapted from 3 to 1 by timm" in weights.adapted
    grey = build(info(channels=1), weights=str(named), **TINY).module.state_dict()
    summed = trained()["patch_embed.proj.weight"].sum(1, keepdim=True)
    assert torch.allclose(grey["patch_embed.proj.weight"], summed)


def test_weights_for_grey_images_load_for_grey_and_are_refused_for_colour(tmp_path: Path) -> None:
    file = tmp_path / "grey.safetensors"
    save_file(trained(channels=1), file)
    params = plugin.TimmParams(weights=str(file), head="in-order", **TINY)
    weights = plugin.timm_weights(params, info(channels=1))
    assert weights is not None
    assert not any("channels" in text for text in weights.adapted)
    build(info(channels=1), weights=str(file), head="in-order", **TINY)
    with pytest.raises(ValueError, match="made for images of 1 channels, toy has 3"):
        plugin.timm_weights(params, info())


# --- preprocessing --------------------------------------------------------------------------------


def test_preprocessing_is_what_timm_names() -> None:
    found = plugin.timm_preprocessing(plugin.TimmParams(name="vit_tiny_patch16_224", pretrained=True))
    cfg = timm.get_pretrained_cfg("vit_tiny_patch16_224")
    assert found is not None
    assert (found.image_size, found.interpolation, found.crop_pct, found.mean, found.std) == (
        224,
        cfg.interpolation,
        cfg.crop_pct,
        cfg.mean,
        cfg.std,
    )
    assert plugin.timm_preprocessing(plugin.TimmParams(name="vit_tiny_patch16_224")) is None


def test_local_weights_have_the_preprocessing_of_their_config_or_tag(named: Path) -> None:
    def of(**params: Any) -> Any:
        return plugin.timm_preprocessing(plugin.TimmParams(weights=str(named), **params))

    assert of(**TINY) is None
    assert of(name="vit_tiny_patch16_224.augreg_in21k_ft_in1k", args={"depth": 2}).crop_pct == 0.9
    config = named.with_name("config.json")
    stated = {
        "input_size": [3, 32, 32],
        "crop_pct": 0.75,
        "interpolation": "bilinear",
        "mean": [0.1, 0.2, 0.3],
    }
    config.write_text(json.dumps({"pretrained_cfg": stated}))
    found = of(**TINY)
    assert (found.image_size, found.crop_pct, found.interpolation) == (32, 0.75, "bilinear")
    assert found.mean == (0.1, 0.2, 0.3)
    for wrong in (
        {"std": [0, 1, 1]},
        {"mean": ["a", 1, 1]},
        {"input_size": [3, -1, 8]},
        {"interpolation": 7},
    ):
        config.write_text(json.dumps({"pretrained_cfg": wrong}))
        with pytest.raises(ValueError, match=f"pretrained_cfg.{next(iter(wrong))}") as caught:
            of(**TINY)
        assert "\n" not in str(caught.value)
    config.write_text(json.dumps({"pretrained_cfg": {"crop_pct": 3}}))
    with pytest.raises(
        ValueError, match=r"pretrained_cfg\.crop_pct: Input should be less than or equal to 1"
    ):
        of(**TINY)


def test_the_config_beside_the_weights_is_in_the_key(named: Path) -> None:
    params = plugin.TimmParams(weights=str(named), **TINY)
    assert plugin.weight_files(params) == (named,)
    named.with_name("config.json").write_text("{}")
    assert plugin.weight_files(params) == (named, named.with_name("config.json"))


# --- the hub --------------------------------------------------------------------------------------

FETCH = """
import timm
from harness_timm.hub import hub_file
try:
    print(hub_file("resnet10t", timm.get_pretrained_cfg("resnet10t")))
except Exception as error:
    print(type(error).__name__, error)
"""


def printed(code: str, *words: str, **environment: str) -> str:
    """Return what a fresh process prints that asks a server for weights."""
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert not done.stderr
    return done.stdout.strip()


@contextmanager
def silent_server() -> Iterator[tuple[str, socket.socket]]:
    """Yield the address of a server that takes connections and never answers, and its socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}", server


def connections(server: socket.socket) -> int:
    """Return how many connections were made to a server."""
    server.setblocking(False)
    for count in range(100):
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
    return 100


def test_a_hub_that_does_not_answer_is_one_line_and_is_asked_once(tmp_path: Path) -> None:
    home = {"HF_HOME": str(tmp_path)}
    with silent_server() as (address, server):
        silent = printed(FETCH, HF_ENDPOINT=address, **home)
        assert address in silent
        assert connections(server) == 1  # the hub's client alone tries six times, with pauses of up to 8 s
    refused = printed(FETCH, HF_ENDPOINT=address, **home)  # its port is closed now
    assert "Connection refused" in refused
    offline = printed(FETCH, HF_HUB_OFFLINE="1", **home)
    assert "HF_HUB_OFFLINE is set" in offline
    for line in (silent, refused, offline):
        assert "\n" not in line
        assert line.startswith("SuiteError weights of 'resnet10t' from the hub: ")
        assert "give a local file (weights: FILE.safetensors)" in line
        assert "hf download timm/resnet10t" in line


def test_a_filled_cache_is_used_without_any_network(tmp_path: Path) -> None:
    repo = tmp_path / "hub" / "models--timm--resnet10t.c3_in1k"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    (snapshot / "model.safetensors").write_bytes(b"x")
    with silent_server() as (address, server):
        assert printed(FETCH, HF_ENDPOINT=address, HF_HOME=str(tmp_path)) == str(
            snapshot / "model.safetensors"
        )
        assert connections(server) == 0


URL = """
import sys
from types import SimpleNamespace
from harness_timm.hub import url_file
try:
    print(url_file("gcvit_xxtiny", SimpleNamespace(url=sys.argv[1] + "/folder/weights.pth")))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_weights_of_another_server_are_bounded_too(tmp_path: Path) -> None:
    home = {"TORCH_HOME": str(tmp_path)}
    with silent_server() as (address, server):
        text = printed(URL, address, **home)
        assert text.startswith("SuiteError weights of 'gcvit_xxtiny': 127.0.0.1:")
        assert "give a local file (weights: FILE.safetensors)" in text
        assert connections(server) == 1
    assert "refused" in printed(URL, address, **home)
    cached = tmp_path / "hub" / "checkpoints" / "weights.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"x")
    assert printed(URL, address, **home) == str(cached)


def test_a_damaged_file_in_the_cache_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness_timm import models

    file = tmp_path / "model.safetensors"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    monkeypatch.setattr(models, "hub_file", lambda name, cfg: file)
    with pytest.raises(ValueError, match=r"model\.safetensors is a Git LFS pointer"):
        build(info(), name="resnet10t", pretrained=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_weights_of_the_hub_answer_for_the_classes_that_the_data_names(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness_timm import models

    torch.manual_seed(0)
    whole = timm.create_model("test_vit", img_size=32).eval()
    file = tmp_path / f"weights{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(whole.state_dict(), file)  # type: ignore[operator]
    monkeypatch.setattr(models, "hub_file", lambda name, cfg: file)
    model = build(info(("cassette player", "tench")), name="test_vit", pretrained=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(model.module(images), whole(images)[:, [482, 0]], atol=1e-5)
