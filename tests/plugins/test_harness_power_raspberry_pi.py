"""Tests of the Raspberry Pi meter and watch, with a ``vcgencmd`` of their own."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from dataclasses import asdict

import pytest

from harness.types import MeterInfo, Unavailable
from harness_power.raspberry_pi import ENTRY, open_meter, probe, watch

PI4 = ("Raspberry Pi 4 Model B Rev 1.4", "raspberrypi,4-model-b\0brcm,bcm2711")
PI5 = ("Raspberry Pi 5 Model B Rev 1.0", "raspberrypi,5-model-b\0brcm,bcm2712")
WATTS = {
    "3V7_WL_SW": (0.25, 3.7),
    "3V3_SYS": (0.125, 3.3),
    "1V8_SYS": (0.5, 1.8),
    "DDR_VDD2": (0.1, 1.1),
    "DDR_VDDQ": (0.05, 0.6),
    "1V1_SYS": (0.2, 1.1),
    "0V8_SW": (0.5, 0.8),
    "VDD_CORE": (2.0, 0.9),
    "3V3_DAC": (0.0, 3.3),
    "3V3_ADC": (0.0, 3.3),
    "0V8_AON": (0.01, 0.8),
    "HDMI": (0.02, 5.0),
}
SUM = sum(amperes * volts for amperes, volts in WATTS.values())
PATIENT_S = 60  # for a busy machine
NOT_THERE = 'error=1 error_msg="Command not registered"'


def adc(rails=WATTS):
    """Return the firmware's output: currents, then voltages, and two voltages without a current."""
    lines = [f"{name}_A current({i})={rails[name][0]:.8f}A" for i, name in enumerate(rails)]
    lines += [f"{name}_V volt({i + 8})={rails[name][1]:.8f}V" for i, name in enumerate(rails)]
    lines += ["EXT5V_V volt(24)=5.15400000V", "BATT_V volt(25)=0.00512820V"]
    return "".join(f"{line:>40}\n" for line in lines)


class Board:
    """A root with a device tree, and a ``vcgencmd`` that prints files of this folder and counts its calls."""

    def __init__(self, folder, model, compatible):
        self.answers, self.root = folder / "answers", folder / "root"
        self.answers.mkdir()
        for place, text in {
            "proc/device-tree/model": f"{model}\0",
            "proc/device-tree/compatible": f"{compatible}\0",
            "sys/class/thermal/thermal_zone0/temp": "61322\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        }.items():
            (self.root / place).parent.mkdir(parents=True, exist_ok=True)
            (self.root / place).write_text(text)
        self.program = folder / "bin/vcgencmd"
        self.program.parent.mkdir()
        self.program.write_text(
            f'#!/bin/sh\necho "$*" >> {folder}/calls\ncd {self.answers} || exit 1\n'
            f'[ -e "$1" ] || {{ echo \'{NOT_THERE}\'; exit 255; }}\n[ -x "$1" ] && exec "./$1"\ncat "$1"\n'
        )
        self.program.chmod(0o755)
        self.says("get_throttled", "throttled=0x0\n")
        self.says("measure_clock", "frequency(0)=1800404352\n")
        self._calls = folder / "calls"

    def says(self, command, text):
        (self.answers / command).write_text(text)

    def hangs(self, command):
        self.says(command, "#!/bin/sh\nexec sleep 30\n")
        (self.answers / command).chmod(0o755)

    def calls(self, command):
        return self._calls.read_text().splitlines().count(command)


@pytest.fixture
def board(tmp_path, monkeypatch):
    def make(model, compatible):
        board = Board(tmp_path, model, compatible)
        monkeypatch.setenv("HARNESS_SYSROOT", str(board.root))
        monkeypatch.setenv("PATH", f"{board.program.parent}:{os.environ['PATH']}")
        return board

    return make


@pytest.fixture
def pi5(board):
    made = board(*PI5)
    made.says("pmic_read_adc", adc())
    return made


def probed(**limits):
    return list(probe(**{"timeout_s": PATIENT_S, **limits}))


def found():
    return {info.name: info for info in probed()}


def opened(info: MeterInfo, timeout_s=PATIENT_S):
    return open_meter(MeterInfo(**json.loads(json.dumps(asdict(info)))), timeout_s)


def test_the_entry_has_these_functions():
    assert (ENTRY.probe, ENTRY.open, ENTRY.watch) == (probe, open_meter, watch)


def test_a_pi_5_gives_the_sum_of_its_rails_and_a_fit_both_uncalibrated(pi5):
    infos = found()
    rails, fit = infos["raspberry-pi:rails"], infos["raspberry-pi:input-fit"]
    assert (rails.scope, rails.provenance) == ("rails", "measured")
    assert (fit.scope, fit.provenance) == ("board", "fitted")
    for info in (rails, fit):
        assert (info.quantity, info.calibration, info.details["calibrated"]) == ("power", None, False)
        assert info.details["model"] == PI5[0]
        assert set(info.details["rails"]) == set(WATTS)
    assert opened(rails).read()[1] == pytest.approx(SUM)
    assert opened(fit).read()[1] == pytest.approx(1.1451 * SUM + 0.5879)


def test_each_reading_is_new_and_later(pi5):
    meter = opened(found()["raspberry-pi:rails"])
    first_ns, first = meter.read()
    pi5.says("pmic_read_adc", adc(WATTS | {"VDD_CORE": (4.0, 0.9)}))
    second_ns, second = meter.read()
    assert second_ns > first_ns
    assert second - first == pytest.approx(1.8)
    meter.close()


def test_both_meters_share_a_reading_for_each_costs_the_board_a_process(pi5):
    rails, fit = map(opened, probed(period_s=60.0))
    before = pi5.calls("pmic_read_adc")
    for _ in range(5):
        (one_ns, one), (two_ns, two) = rails.read(), fit.read()
        assert one_ns == two_ns
        assert two == pytest.approx(1.1451 * one + 0.5879)
    assert pi5.calls("pmic_read_adc") - before == 5


def test_two_threads_may_read_at_once(pi5):
    meters = [opened(info) for info in probed()]
    times = [[], []]

    def poll(meter, into):
        for _ in range(20):
            into.append(meter.read()[0])

    threads = [
        threading.Thread(target=poll, args=pair, daemon=True) for pair in zip(meters, times, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for series in times:
        assert len(series) == 20
        assert all(early < late for early, late in itertools.pairwise(series))


def test_an_old_shared_reading_is_not_used(pi5):
    rails, fit = map(opened, probed(period_s=0.02))
    rails.read()
    pi5.says("pmic_read_adc", adc({name: (0.0, volts) for name, (_, volts) in WATTS.items()}))
    time.sleep(0.02)
    assert fit.read()[1] == pytest.approx(0.5879)


@pytest.mark.parametrize("model", ["Raspberry Pi 500 Rev 1.0", "Raspberry Pi Compute Module 5 Rev 1.0"])
def test_the_kin_of_the_pi_5_has_the_same_chip(board, model):
    board(model, "brcm,bcm2712").says("pmic_read_adc", adc())
    assert list(found()) == ["raspberry-pi:rails", "raspberry-pi:input-fit"]


def test_a_pi_4_has_no_current_sensing(board):
    board(*PI4)
    (answer,) = probed()
    assert answer.reason == f"{PI4[0]}: no current sensing"
    assert "external meter" in answer.fix


def test_another_machine_is_reported_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_SYSROOT", str(tmp_path))
    assert probed() == [Unavailable(name="raspberry-pi", reason="this is no Raspberry Pi")]
    assert watch(PATIENT_S) is None


def test_a_missing_vcgencmd_is_named(pi5, monkeypatch):
    monkeypatch.setenv("PATH", "")
    (answer,) = probed()
    assert "vcgencmd is not installed" in answer.reason
    assert answer.fix == "sudo apt install raspi-utils"


def test_a_missing_right_to_the_firmware_names_the_group(pi5):
    pi5.says("pmic_read_adc", '#!/bin/sh\necho "Can\'t open device file: /dev/vcio" >&2\nexit 255\n')
    (pi5.answers / "pmic_read_adc").chmod(0o755)
    (answer,) = probed()
    assert "/dev/vcio" in answer.reason
    assert "usermod -aG video" in answer.fix


def test_an_old_firmware_says_so(pi5):
    (pi5.answers / "pmic_read_adc").unlink()
    (answer,) = probed()
    assert "Command not registered" in answer.reason
    assert answer.fix


def test_a_current_that_is_written_with_an_exponent_is_read(pi5):
    meter = opened(found()["raspberry-pi:rails"])
    before = meter.read()[1]
    pi5.says("pmic_read_adc", adc().replace("0.02000000A", "1.2e-05A"))
    assert before - meter.read()[1] == pytest.approx((0.02 - 1.2e-05) * 5.0)


GARBAGE = ["", "\x00\xff\n", "VDD_CORE_A current(7)=oopsA\n", "VDD_CORE_A current(7)=1.0V\n", NOT_THERE]


@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_is_no_meter_and_no_reading(pi5, text):
    meter = opened(found()["raspberry-pi:rails"])
    pi5.says("pmic_read_adc", text)
    with pytest.raises(OSError, match="pmic_read_adc"):
        meter.read()
    (answer,) = probed()
    assert isinstance(answer, Unavailable)
    assert "\n" not in answer.reason


def test_a_rail_that_is_missing_is_not_counted_as_nothing(pi5):
    meter = opened(found()["raspberry-pi:rails"])
    pi5.says("pmic_read_adc", adc({name: WATTS[name] for name in WATTS if name != "VDD_CORE"}))
    with pytest.raises(OSError, match="VDD_CORE"):
        meter.read()
    pi5.says("pmic_read_adc", adc().replace("VDD_CORE_V", "VDD_CORE_W"))
    with pytest.raises(OSError, match="no voltage of VDD_CORE"):
        meter.read()


@pytest.mark.clock
def test_a_firmware_that_hangs_ends_the_meter_and_holds_nothing_up(pi5):
    meter = opened(found()["raspberry-pi:rails"], timeout_s=0.5)
    pi5.hangs("pmic_read_adc")
    began = time.monotonic()
    with pytest.raises(OSError, match=r"no answer within 0\.5 s"):
        meter.read()
    (answer,) = probed(timeout_s=0.5)
    assert "no answer" in answer.reason
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("kind", [PI4, PI5], ids=["4", "5"])
def test_the_state_of_a_quiet_board(board, kind):
    board(*kind)
    state = watch(PATIENT_S)()
    assert json.loads(json.dumps(state)) == {
        "model": kind[0],
        "governor": "ondemand",
        "temperature_c": 61.322,
        "mhz": pytest.approx(1800.404352),
        "throttle": [],
        "throttle_hidden": [],
        "get_throttled": "0x0",
    }


@pytest.mark.parametrize(
    ("bits", "causes"),
    [
        ("0x1", ["under-voltage"]),
        ("0x2", ["frequency-capped"]),
        ("0xe0008", ["soft-thermal-limit"]),
        ("0x50005", ["under-voltage", "throttled"]),
    ],
)
def test_what_throttles_now(board, bits, causes):
    pi = board(*PI4)
    pi.says("get_throttled", f"throttled={bits}\n")
    assert watch(PATIENT_S)()["throttle"] == causes


def test_what_came_and_went_between_two_looks_is_seen_once(board):
    pi = board(*PI4)
    look = watch(PATIENT_S)
    assert look()["throttle"] == []
    pi.says("get_throttled", "throttled=0x40000\n")
    assert look()["throttle"] == ["throttled"]
    assert look()["throttle"] == []
    pi.says("get_throttled", "throttled=0xc0000\n")
    state = look()
    assert (state["throttle"], state["throttle_hidden"]) == (["soft-thermal-limit"], [])


def test_what_was_set_since_boot_is_not_this_windows_but_hides_its_like(board):
    pi = board(*PI4)
    pi.says("get_throttled", "throttled=0x50000\n")
    state = watch(PATIENT_S)()
    assert state["throttle"] == []
    assert state["throttle_hidden"] == ["under-voltage", "throttled"]


def test_an_event_before_the_first_look_and_after_opening_is_seen(board):
    pi = board(*PI4)
    look = watch(PATIENT_S)
    pi.says("get_throttled", "throttled=0x10000\n")
    assert look()["throttle"] == ["under-voltage"]


def test_a_vcgencmd_that_fails_leaves_its_keys_out_and_says_why(board):
    pi = board(*PI4)
    pi.says("get_throttled", "nonsense")
    look = watch(PATIENT_S)
    state = look()
    assert "throttle" not in state
    assert "mhz" not in state
    assert state["vcgencmd"] == "vcgencmd answers 'nonsense'"
    assert state["temperature_c"] == 61.322
    pi.says("get_throttled", "throttled=0x20000\n")
    assert look()["throttle_hidden"] == ["frequency-capped"]
