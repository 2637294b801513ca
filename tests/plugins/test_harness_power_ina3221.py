"""Tests of the Jetson meter on trees of files, against jetson-stats' own reader of the same trees."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.types import MeterInfo, Unavailable
from harness_power import ina3221, jetson

Rails = dict[str, tuple[int, int]]  # name -> millivolts, milliamperes

NANO: list[Rails] = [{"POM_5V_IN": (5056, 803), "POM_5V_GPU": (5048, 161), "POM_5V_CPU": (5048, 322)}]
XAVIER_NX: list[Rails] = [{"VDD_IN": (4960, 1216), "VDD_CPU_GPU_CV": (4952, 304), "VDD_SOC": (4952, 248)}]
AGX_XAVIER: list[Rails] = [
    {"GPU": (19080, 32), "CPU": (19080, 48), "SOC": (19088, 112)},
    {"CV": (19088, 8), "VDDRQ": (19080, 24), "SYS5V": (4944, 384)},
]
ORIN_NX: list[Rails] = [{"VDD_IN": (4984, 1000), "VDD_CPU_GPU_CV": (4976, 152), "VDD_SOC": (4976, 288)}]
AGX_ORIN: list[Rails] = [
    {"VDD_GPU_SOC": (19912, 160), "VDD_CPU_CV": (19912, 60), "VIN_SYS_5V0": (4968, 800)},
    {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (4968, 140), "NC#": (0, 0)},
]
TX2: list[Rails] = [
    {"VDD_SYS_GPU": (19072, 8), "VDD_SYS_SOC": (19072, 40), "VDD_4V0_WIFI": (4800, 8)},
    {"VDD_IN": (19072, 160), "VDD_SYS_CPU": (19072, 16), "VDD_SYS_DDR": (19040, 56)},
    {"VDD_MUX": (19064, 304), "VDD_5V0_IO_SYS": (4960, 240), "VDD_3V3_SYS": (3320, 8)},
]


def put(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def hwmon(root: Path, chips: list[Rails], **attributes: object) -> Path:
    """Make a tree with the layout of JetPack 5 and newer."""
    for number, rails in enumerate(chips):
        chip = root / f"sys/bus/i2c/devices/1-{40 + number:04}"
        put(chip / "name", "ina3221")
        folder = chip / f"hwmon/hwmon{3 + number}"
        put(folder / "in7_label", "sum of shunt voltages")
        put(folder / "in7_input", 760)
        for channel, (name, (millivolts, milliamperes)) in enumerate(rails.items(), 1):
            put(folder / f"in{channel}_label", name.rstrip("#"))
            put(folder / f"in{channel}_input", millivolts)
            put(folder / f"curr{channel}_input", milliamperes)
        for name, value in attributes.items():
            put(folder / name, value)
    return root


def iio(root: Path, chips: list[Rails], *, running_mode: int = 1, config: int | None = None) -> Path:
    """Make a tree with the layout of JetPack 4."""
    for number, rails in enumerate(chips):
        chip = root / f"sys/bus/i2c/devices/6-{40 + number:04}"
        put(chip / "name", "ina3221x")
        folder = chip / f"iio:device{number}"
        put(folder / "running_mode", running_mode)
        if config is not None:
            key = chip / "of_node" / ("ti,continuous-config" if running_mode else "ti,trigger-config")
            put(key, "")
            key.write_bytes(config.to_bytes(4, "big"))
        for channel, (name, (millivolts, milliamperes)) in enumerate(rails.items()):
            put(folder / f"rail_name_{channel}", name)
            put(folder / f"in_voltage{channel}_input", millivolts)
            put(folder / f"in_current{channel}_input", milliamperes)
            put(folder / f"in_power{channel}_input", millivolts * milliamperes // 1000)
            put(folder / f"warn_current_limit_{channel}", "32760 ma")
    return root


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_SYSROOT", str(tmp_path))
    return tmp_path


def only() -> Any:
    (meter,) = ina3221.probe()
    return meter


def through_json(info: MeterInfo) -> MeterInfo:
    return replace(info, details=json.loads(json.dumps(info.details)))


def watts(info: MeterInfo) -> float:
    meter = ina3221.open_meter(through_json(info))
    try:
        before = time.monotonic_ns()
        when, value = meter.read()
        assert before <= when <= time.monotonic_ns()
        return value
    finally:
        meter.close()


def jtop_says(root: Path) -> dict[str, Any]:
    """Return the values that jetson-stats' service would publish for this tree."""
    before = multiprocessing.get_start_method(allow_none=True)
    power = pytest.importorskip("jtop.core.power")
    multiprocessing.set_start_method(before, force=True)  # importing jtop sets it
    service = power.PowerService.__new__(power.PowerService)
    service._power_sensor = power.find_all_i2c_power_monitor(str(root / "sys/bus/i2c/devices"))
    service._power_avg = {}
    return service.get_status()


AGX_XAVIER_RAILS = ["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"]
BOARDS = {  # layout, chips, what is added
    "nano": (iio, NANO, ["POM_5V_IN"]),
    "tx2": (iio, TX2, ["VDD_IN"]),
    "xavier-nx-4": (iio, XAVIER_NX, ["VDD_IN"]),
    "xavier-nx-5": (hwmon, XAVIER_NX, ["VDD_IN"]),
    "agx-xavier-4": (iio, AGX_XAVIER, AGX_XAVIER_RAILS),
    "agx-xavier-5": (hwmon, AGX_XAVIER, AGX_XAVIER_RAILS),
    "orin-nx": (hwmon, ORIN_NX, ["VDD_IN"]),
    "agx-orin": (hwmon, AGX_ORIN, ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]),
}


@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")
def test_thor_has_a_monitor_at_its_input(root: Path) -> None:
    hwmon(root, [{"VDD_GPU": (19000, 100), "VDD_CPU_SOC_MSS": (19000, 200), "VIN_SYS_5V0": (5000, 100)}])
    chip = root / "sys/bus/i2c/devices/2-0044"
    put(chip / "name", "ina238")
    for name, value in {
        "in0_input": 3,
        "in1_input": 19850,
        "curr1_input": 2600,
        "power1_input": 51_610_000,
    }.items():
        put(chip / "hwmon/hwmon9" / name, value)
    info = only()
    assert (info.name, info.scope, info.watches) == ("ina3221:VIN", "board", "board")
    assert watts(info) == pytest.approx(51.61)
    jtop = jtop_says(root)["tot"]
    assert jtop.get("name") != "VIN" or jtop["power"] == 51_610  # versions before 7 do not know the chip
    assert info.period_s == pytest.approx(0.0505, abs=1e-4)
    assert info.averaging_s == info.period_s
    assert list(info.details["beside"]) == ["VDD_CPU_SOC_MSS", "VDD_GPU", "VIN_SYS_5V0"]


@pytest.mark.parametrize("board", BOARDS)
def test_a_board_is_read_and_every_rail_accounted_for_once(root: Path, board: str) -> None:
    layout, chips, added = BOARDS[board]
    layout(root, chips)
    info = only()
    details, rails = info.details, {name: pair for chip in chips for name, pair in chip.items()}
    assert info.name == f"ina3221:{added[0] if len(added) == 1 else 'rails'}"
    assert (info.quantity, info.provenance) == ("power", "measured")
    assert list(details["files"]) == added
    true = sum(rails[name][0] * rails[name][1] for name in added) * 1e-6
    assert watts(info) == pytest.approx(true, abs=1e-3 * len(added))  # JetPack 4 gives whole milliwatts
    named = [*added, *details["inside"], *details["beside"]]
    assert sorted(named) == sorted(name for name in rails if not name.startswith("NC"))
    assert set(details["other_files"]) == {*details["inside"], *details["beside"]}


@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")
@pytest.mark.parametrize("board", BOARDS)
def test_jetson_stats_reads_the_same(root: Path, board: str) -> None:
    layout, chips, _ = BOARDS[board]
    layout(root, chips)
    jtop, info = jtop_says(root), only()
    nested = jtop["rail"].get("VDDQ_VDD2_1V8AO", {"power": 0})["power"]  # which its total counts twice
    rails = 1 + len(info.details["files"])  # it cuts each rail to whole milliwatts
    assert watts(info) * 1e3 == pytest.approx(jtop["tot"]["power"] - nested, abs=rails)


def test_a_board_input_holds_its_rails(root: Path) -> None:
    hwmon(root, ORIN_NX)
    info = only()
    assert (info.scope, info.watches) == ("board", "board")
    assert set(info.details["inside"]) == {"VDD_CPU_GPU_CV", "VDD_SOC"}
    assert watts(info) == pytest.approx(4.984)


def test_a_carrier_boards_rails_are_not_the_modules(root: Path) -> None:
    iio(root, TX2)
    details = only().details
    assert set(details["beside"]) == {"VDD_MUX", "VDD_5V0_IO_SYS", "VDD_3V3_SYS"}


def test_a_sum_of_rails_says_so_and_leaves_out_what_another_rail_feeds(root: Path) -> None:
    hwmon(root, AGX_ORIN)
    info = only()
    assert (info.scope, info.watches) == ("rails", "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0")
    assert info.details["inside"] == ["VDDQ_VDD2_1V8AO"]
    assert "not the board's input" in info.details["holds"]
    assert watts(info) == pytest.approx(19.912 * 0.22 + 4.968 * 0.8)


def test_rails_of_unknown_nesting_are_never_added(root: Path) -> None:
    hwmon(root, [{"VDD_GPU": (19000, 100), "VDD_CPU_SOC_MSS": (19000, 100), "VIN_SYS_5V0": (5000, 100)}])
    meter = only()
    assert isinstance(meter, Unavailable)
    assert "VDD_CPU_SOC_MSS" in meter.reason
    assert "no sum" in meter.reason


def test_a_missing_rail_makes_no_smaller_sum(root: Path) -> None:
    hwmon(root, AGX_XAVIER[:1])
    assert isinstance(only(), Unavailable)


def test_the_period_is_the_drivers_where_it_tells(root: Path) -> None:
    hwmon(root, ORIN_NX, update_interval=28, samples=4, shunt1_resistor=5000)
    info = only()
    assert (info.period_s, info.averaging_s) == (0.028, 0.028)
    assert info.details["period_from"] == "update_interval"
    assert info.details["step_ma"] == {"VDD_IN": 8.0}  # 40 uV over 5 milliohm


def test_the_period_is_the_chips_where_the_driver_is_silent(root: Path) -> None:
    hwmon(root, ORIN_NX)
    info = only()
    assert info.period_s == pytest.approx(0.0066)
    assert info.averaging_s == 0


def test_the_slowest_chip_of_a_sum_gives_the_period(root: Path) -> None:
    hwmon(root, AGX_XAVIER, update_interval=7)
    put(root / "sys/bus/i2c/devices/1-0041/hwmon/hwmon4/update_interval", 14)
    assert only().period_s == pytest.approx(0.014)


@pytest.mark.parametrize(
    ("mode", "config", "period", "averaging"),
    [
        (1, 0x7C07, 512 * 3 * 280e-6, 512 * 3 * 280e-6),  # 512 averages of 140 us conversions
        (1, None, 64 * 3 * 2200e-6, 64 * 3 * 2200e-6),
        (0, 0x7003, 3 * 280e-6, 0.0),
    ],
)
def test_jetpack_4_averages_as_the_device_tree_says(
    root: Path, mode: int, config: int | None, period: float, averaging: float
) -> None:
    iio(root, NANO, running_mode=mode, config=config)
    info = only()
    assert info.period_s == pytest.approx(period)
    assert info.averaging_s == pytest.approx(averaging)


def test_readings_are_fresh_and_may_be_negative(root: Path) -> None:
    hwmon(root, ORIN_NX)
    meter = ina3221.open_meter(through_json(only()))
    current = root / "sys/bus/i2c/devices/1-0040/hwmon/hwmon3/curr1_input"
    put(current, 2000)
    assert meter.read()[1] == pytest.approx(9.968)
    put(current, -16)
    assert meter.read()[1] == pytest.approx(-0.079744)
    put(current, "")
    with pytest.raises(OSError, match=r"curr1_input .* not a number"):
        meter.read()
    meter.close()


def test_a_disabled_channel_is_no_rail(root: Path) -> None:
    hwmon(root, ORIN_NX, in1_enable=0)
    meter = only()
    assert isinstance(meter, Unavailable)
    assert "VDD_IN" not in meter.reason


def test_a_rail_that_does_not_answer_is_named_with_a_fix(root: Path) -> None:
    hwmon(root, ORIN_NX)
    current = root / "sys/bus/i2c/devices/1-0040/hwmon/hwmon3/curr1_input"
    current.unlink()
    meter = only()
    assert str(current) in meter.reason
    assert "dmesg" in meter.fix


def test_permissions_are_named_with_a_fix(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hwmon(root, ORIN_NX)

    def refuse(path: str | Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    meter = only()
    assert "in1_input: Permission denied" in meter.reason
    assert "chmod a+r" in meter.fix


def test_off_a_jetson_one_short_line(root: Path) -> None:
    meter = only()
    assert "not a Jetson" in meter.reason
    assert jetson.watch() is None


def test_a_jetson_without_the_chip_says_what_to_do(root: Path) -> None:
    put(root / "proc/device-tree/compatible", "nvidia,p3448-0003\0nvidia,tegra210\0")
    meter = only()
    assert "no INA3221" in meter.reason
    assert "modprobe" in meter.fix


@pytest.fixture
def orin(root: Path) -> Path:
    hwmon(root, ORIN_NX)
    put(root / "etc/nv_tegra_release", "# R36")
    put(root / "var/lib/nvpmodel/status", "pmode:0002")
    modes = [
        "< PM_CONFIG DEFAULT=1 >",
        "< POWER_MODEL ID=1 NAME=15W >",
        "< POWER_MODEL ID=2 NAME=MAXN_SUPER >",
    ]
    put(root / "etc/nvpmodel.conf", "\n".join(modes))
    thermal = root / "sys/class/thermal"
    for number, (kind, temp) in enumerate(
        [("cpu-thermal", 51500), ("tj-thermal", 53250), ("cv0-thermal", "")]
    ):
        put(thermal / f"thermal_zone{number}/type", kind)
        put(thermal / f"thermal_zone{number}/temp", temp)
    put(thermal / "thermal_zone9/type", "PMIC-Die")
    put(thermal / "thermal_zone9/temp", 100000)
    for number, (kind, level) in enumerate([("pwm-fan", 3), ("cpu-throttle", 0), ("hot-surface-alert", 1)]):
        put(thermal / f"cooling_device{number}/type", kind)
        put(thermal / f"cooling_device{number}/cur_state", level)
    put(root / "sys/class/devfreq/15340000.vic/cur_freq", 729600000)
    for name, hertz in {"cur": 510000000, "min": 306000000, "max": 918000000}.items():
        put(root / f"sys/class/devfreq/17000000.ga10b/{name}_freq", hertz)
    put(root / "sys/class/hwmon/hwmon1/name", "soctherm_oc")
    for event, count in {"oc1": 0, "oc2": 15, "oc3": 37}.items():
        put(root / f"sys/class/hwmon/hwmon1/{event}_event_cnt", count)
    return root


def test_the_state_of_a_quiet_board(orin: Path) -> None:
    look = jetson.watch()
    assert look is not None
    assert look() == {
        "temperature_c": 53.25,
        "mhz": 510.0,
        "clocks_pinned": False,
        "power_mode": "MAXN_SUPER",
        "throttle": [],
    }


def test_heat_and_over_current_are_causes_of_throttling(orin: Path) -> None:
    look = jetson.watch()
    assert look is not None
    put(orin / "sys/class/thermal/cooling_device1/cur_state", 2)
    put(orin / "sys/class/hwmon/hwmon1/oc3_event_cnt", 40)
    state = look()
    assert state["throttle"] == ["over-current", "thermal"]
    assert state["cooling"] == {"cpu-throttle#1": 2}
    put(orin / "sys/class/thermal/cooling_device1/cur_state", 0)
    assert look()["throttle"] == []  # the counter stands still: over


def test_a_mode_without_a_name_and_pinned_clocks(orin: Path) -> None:
    put(orin / "var/lib/nvpmodel/status", "pmode:0007")
    put(orin / "sys/class/devfreq/17000000.ga10b/min_freq", 918000000)
    look = jetson.watch()
    assert look is not None
    assert look()["power_mode"] == "7"
    assert look()["clocks_pinned"] is True


def test_what_goes_away_is_left_out(orin: Path) -> None:
    look = jetson.watch()
    assert look is not None
    for path in sorted((orin / "sys/class").rglob("*"), reverse=True):
        if path.is_file():
            path.unlink()
    assert look() == {"power_mode": "MAXN_SUPER", "throttle": []}
