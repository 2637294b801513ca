"""Tests of profiles: the line and its error against independent references, files, and matching devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from harness.errors import StorageError
from harness.plan.profiles.line import fit
from harness.plan.profiles.profile import Link, Point, Profile, ProfileError
from harness.plan.profiles.stored import (
    link_of,
    load_profile,
    profiled,
    read_profile,
    stored_profile,
    write_profile,
)
from harness.types import DeviceInfo, DeviceSpec, Params

SIZES = st.floats(1e-4, 1e2)
# three digits: the line through two sizes that differ in their last bits is of rounding errors
ROUND_SIZES = SIZES.map(lambda size: float(f"{size:.3g}"))
POINTS = st.lists(st.tuples(ROUND_SIZES, SIZES), min_size=3, max_size=12, unique_by=lambda point: point[0])


def made(seconds: Any = lambda gmacs: 0.002 + 0.05 * gmacs, name: str = "cpu", **more: Any) -> Profile:
    points = tuple(
        Point(
            what=f"model {gmacs}",
            kind="model",
            macs=round(gmacs * 1e9),
            macs_linear=1,
            bytes=1,
            seconds=seconds(gmacs),
        )
        for gmacs in (0.01, 0.1, 1.0, 2.0)
    )
    fields = {
        "device_model": "a machine",
        "provenance": "measured",
        "origin": "a test",
        "runtime": "onnxruntime",
    }
    return Profile(name=name, points=points, **{**fields, "threads": 1, **more})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_PROFILES", str(tmp_path / "profiles"))
    return tmp_path / "profiles"


def line(points: Any) -> Any:
    """Return the fit. Skip the example if no line fits."""
    try:
        return fit(*zip(*points, strict=True))
    except ValueError as error:
        assume("no line" not in str(error))
        raise


# --- the line -------------------------------------------------------------------------------------


@given(st.floats(0, 10), st.floats(1e-3, 10), st.lists(SIZES, min_size=3, max_size=9, unique=True))
def test_points_on_a_line_give_that_line_without_error(a: float, b: float, xs: list[float]) -> None:
    assume(max(xs) / min(xs) > 2 and b * max(xs) > 1e-3 * a and len({round(x, 6) for x in xs}) == len(xs))
    assume(
        all(b * (hi - lo) > 1e-4 * (a + b * hi) for lo, hi in zip(sorted(xs), sorted(xs)[1:], strict=False))
    )
    fitted = fit(xs, [a + b * x for x in xs])
    assert fitted.fixed == pytest.approx(a, rel=1e-5, abs=1e-6 * b * min(xs) + 1e-9)
    assert fitted.slope == pytest.approx(b, rel=1e-5)
    assert fitted.error <= fitted.worst < 1e-4
    assert (fitted.low, fitted.high, fitted.points) == (min(xs), max(xs), len(xs))


@given(POINTS)
def test_the_line_is_scipys_non_negative_least_squares_of_relative_residuals(points: Any) -> None:
    fitted = line(points)
    xs, ys = (np.array(values) for values in zip(*points, strict=True))
    rows = np.stack([1 / ys, xs / ys], axis=1)
    scale = rows.max(axis=0)
    _, reference = nnls(rows / scale, np.ones(len(xs)))
    residual = np.linalg.norm((fitted.fixed + fitted.slope * xs) / ys - 1)
    assert residual == pytest.approx(reference, rel=1e-6, abs=1e-9)
    assert fitted.fixed >= 0
    assert fitted.slope > 0


@given(POINTS)
def test_the_error_is_that_of_points_left_out(points: Any) -> None:
    fitted = line(points)
    shares = []
    for i, (x, y) in enumerate(points):
        xs, ys = (np.array(values) for values in zip(*[*points[:i], *points[i + 1 :]], strict=True))
        rows = np.stack([1 / ys, xs / ys], axis=1)
        scale = rows.max(axis=0)
        a, b = nnls(rows / scale, np.ones(len(xs)))[0] / scale
        shares.append(abs(y - (a + b * x)) / (a + b * x))
    assert fitted.worst == pytest.approx(max(shares), rel=1e-4, abs=1e-6)
    assert fitted.error == pytest.approx(np.sqrt(np.mean(np.square(shares))), rel=1e-4, abs=1e-6)


@given(POINTS, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.randoms(use_true_random=False))
def test_units_and_order_change_nothing(points: Any, x: float, y: float, shuffle: Any) -> None:
    fitted = line(points)
    others = [(x * a, y * b) for a, b in points]
    shuffle.shuffle(others)
    other = line(others)
    assert other.slope == pytest.approx(fitted.slope * y / x, rel=1e-5)
    assert other.fixed == pytest.approx(fitted.fixed * y, rel=1e-5, abs=1e-8 * y * fitted.slope * fitted.high)
    assert other.error == pytest.approx(fitted.error, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    ("xs", "ys", "why"),
    [
        ([1, 2], [1, 2], "needs 3 points"),
        ([1, 1, 2], [1, 1, 2], "not 2"),
        ([1, 2, 3], [3, 2, 1], "no longer"),
        ([1, 2, 0], [1, 2, 3], "positive"),
        ([1, 2, 3], [1, float("nan"), 3], "positive"),
        ([1, 2, 3], [1, 2], "positive"),
    ],
)
def test_what_makes_no_line_is_refused(xs: list[float], ys: list[float], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        fit(xs, ys)


def test_beyond_its_points_a_line_says_so() -> None:
    fitted = fit([1, 2, 4], [1.0, 2.1, 4.0])
    assert [fitted.covers(x) for x in (0.5, 0.999, 1, 3, 4.01, 5)] == [False, True, True, True, True, False]


# --- files ----------------------------------------------------------------------------------------


def test_a_profile_is_read_as_it_was_written(folder: Path) -> None:
    profile = made(link=Link(rate_mbps=16, rtt_ms=1))
    path = write_profile(profile)
    assert path.parent == folder
    assert [one.name for one in folder.iterdir()] == ["cpu.onnxruntime.1.json"]
    assert read_profile(path) == load_profile("cpu") == load_profile(str(path)) == profile
    line = json.loads(path.read_text())["lines"]["model"]
    assert (line["fixed_s"], line["s_per_gmac"]) == pytest.approx((0.002, 0.05))


def test_threads_and_runtime_choose_among_the_profiles_of_a_device() -> None:
    for threads in (1, 4):
        for runtime in ("torch", "onnxruntime"):
            write_profile(made(threads=threads, runtime=runtime))
    stored = stored_profile(["pi1", "cpu"], 4, "torch")
    assert stored is not None
    assert (stored.threads, stored.runtime) == (4, "torch")
    stored = stored_profile(["cpu"], 4, None)
    assert stored is not None
    assert stored.runtime == "onnxruntime"
    assert stored_profile(["cpu"], 2, None) is None
    assert stored_profile(["cpu-2"], 1, None) is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"points": []}, "points"),
        ({"version": 2}, "version"),
        ({"speed": 3}, "speed"),
        ({"name": "../x"}, "name"),
        ({"provenance": "modelled"}, "provenance"),
        ({"points": "half"}, "3 points"),
        ({"points": "falling"}, "no longer"),
    ],
)
def test_a_file_that_is_no_profile_is_one_line(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    tree = made().to_json()
    if change.get("points") == "half":
        change = {"points": tree["points"][:2]}
    elif change.get("points") == "falling":
        change = {"points": [{**p, "seconds": 1 / p["macs"]} for p in tree["points"]]}
    path = tmp_path / "one.json"
    path.write_text(json.dumps({**tree, **change}))
    with pytest.raises(ProfileError, match=why) as caught:
        read_profile(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_profile_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "one.json"
    path.write_bytes(data)
    with pytest.raises(ProfileError):
        read_profile(path)


def test_an_unknown_name_tells_what_there_is() -> None:
    write_profile(made())
    with pytest.raises(ProfileError, match=r"did you mean 'raspberry-pi-4b'\? allowed: cpu, raspberry-pi-4b"):
        load_profile("raspberry-pi-4")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_profile(made(), tmp_path / "file" / "one.json")


# --- what is shipped ------------------------------------------------------------------------------


def test_the_shipped_example_is_what_the_paper_prints() -> None:
    profile = load_profile("raspberry-pi-4b")
    assert profile.label == "raspberry-pi-4b (published)"
    assert [point.seconds for point in profile.points] == [9.628, 36.94, 118.828, 5.05, 1.28]
    printed = [4.25, 16.86, 59.69, 1.90, 0.48]
    assert [p.macs_linear / 1e9 for p in profile.points] == pytest.approx(printed, rel=0.015)
    linear = [point.seconds / (point.macs_linear / 1e9) for point in profile.points]
    assert (round(min(linear), 2), round(max(linear), 2)) == (1.99, 2.65)
    assert all(abs(profile.line.at(p.macs / 1e9) / p.seconds - 1) < 0.15 for p in profile.points)
    assert 0.15 < profile.line.error < profile.line.worst < 0.4


# --- who gets it ----------------------------------------------------------------------------------


def test_devices_get_their_profile_and_link_and_others_stay_as_they_are() -> None:
    def device(name: str, backend: str, **details: Any) -> tuple[DeviceSpec, DeviceInfo]:
        return DeviceSpec(name=name, backend=backend, params=Params()), DeviceInfo(
            name=name, backend=backend, model="m", kind="cpu", cores=1, memory_bytes=1, details=details
        )

    write_profile(made(link=Link(rate_mbps=16, rtt_ms=1)))
    write_profile(made(lambda gmacs: 3 * gmacs, name="pi1"))
    measured = {"rate_mbps": 8.0, "rtt_ms": 2.0}
    pairs = [
        device("here", "cpu"),
        device("pi1", "agent", link=measured),
        device("pi2", "agent", serial="7"),
        device("lab", "cpu", link=measured),
    ]
    here, pi1, pi2, lab = profiled(*zip(*pairs, strict=True))
    assert here.details["profile"]["s_per_gmac"] == pytest.approx(0.05)
    assert link_of(here) == Link(rate_mbps=16, rtt_ms=1)
    assert (pi1.details["profile"]["name"], link_of(pi1)) == ("pi1", Link(**measured))
    assert pi2 == pairs[2][1]
    assert link_of(pi2) is None
    assert link_of(lab) == Link(**measured)
    json.dumps([here.details, pi1.details])


def test_a_link_takes_half_a_round_trip_and_its_bytes() -> None:
    assert Link(rate_mbps=16, rtt_ms=4).seconds(602_112) == pytest.approx(0.002 + 0.301056)
    assert Link(rtt_ms=4).seconds(10**9) == 0.002
    joined = Link(rate_mbps=16, rtt_ms=1).joined(Link(rtt_ms=3))
    assert (joined.rate_mbps, joined.rtt_ms) == (16, 3)
