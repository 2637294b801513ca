"""Tests of the powercap meters, on trees of files made after the kernel's documentation."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from harness.types import MeterInfo, Unavailable
from harness_power import powercap
from harness_power.powercap import ENTRY

INTEL = "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: {}\nflags\t\t: fpu\n"
COFFEE_LAKE = INTEL.format(158)
AMD = "vendor_id\t: AuthenticAMD\ncpu family\t: 23\nmodel\t\t: 49\nflags\t\t: fpu\n"
LAPTOP = {
    "intel-rapl:0": ("package-0", 1_000_000),
    "intel-rapl:0:0": ("core", 400_000),
    "intel-rapl:0:1": ("uncore", 100_000),
    "intel-rapl:0:2": ("dram", 300_000),
    "intel-rapl:1": ("psys", 5_000_000),
    "intel-rapl-mmio:0": ("package-0", 1_000_001),
    "intel-rapl-mmio:0:0": ("dram", 300_001),
}


@pytest.fixture
def trees(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "data"))
    import powercap_tree

    yield powercap_tree
    sys.modules.pop("powercap_tree", None)


@pytest.fixture
def tree(trees, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_SYSROOT", str(tmp_path))

    def build(zones, cpuinfo=COFFEE_LAKE):
        return trees.build(tmp_path, zones, cpuinfo)

    return build


def found():
    return {info.name: info for info in ENTRY.probe()}


def opened(info: MeterInfo):
    return ENTRY.open(MeterInfo(**json.loads(json.dumps(asdict(info)))))


def put(top: Path, zone: str, energy: int) -> None:
    (top / zone / "energy_uj").write_text(f"{energy}\n")


def test_a_laptop_has_a_package_memory_and_a_platform_and_nothing_twice(tree):
    tree(LAPTOP)
    infos = found()
    assert {name: (info.scope, info.watches) for name, info in infos.items()} == {
        "powercap:package": ("package", "cpu"),
        "powercap:dram": ("rails", "dram"),
        "powercap:psys": ("board", "psys"),
    }
    package = infos["powercap:package"]
    assert [zone["zone"] for zone in package.details["zones"]] == ["package-0"]
    assert package.details["parts"] == ["package-0/core", "package-0/uncore"]
    assert [Path(path).name for path in package.details["left_out"]] == [
        "intel-rapl-mmio:0",
        "intel-rapl-mmio:0:0",
    ]
    assert (package.quantity, package.period_s, package.provenance) == ("energy", 0.001, "measured")


def test_the_joules_are_those_since_the_first_reading_of_that_zone_alone(tree):
    top = tree(LAPTOP)
    meter = opened(found()["powercap:package"])
    first_ns, first = meter.read()
    for zone in LAPTOP:
        put(top, zone, 9_000_000)
    second_ns, second = meter.read()
    meter.close()
    assert second - first == pytest.approx(8.0)
    assert second_ns > first_ns


def test_two_packages_are_summed_and_wrap_independently(tree):
    top = tree(
        {
            "intel-rapl:0": ("package-0", 65_532_000_000, 65_532_610_987),
            "intel-rapl:0:0": ("dram", 10, 65_712_999_613),
            "intel-rapl:1": ("package-1", 100, 262_143_328_850),
            "intel-rapl:1:0": ("dram", 20, 65_712_999_613),
        }
    )
    package, dram = (opened(found()[name]) for name in ("powercap:package", "powercap:dram"))
    start = package.read()[1], dram.read()[1]
    put(top, "intel-rapl:0", 389_013)  # 610987 to the end of the range, then 389013
    put(top, "intel-rapl:1", 500_100)
    put(top, "intel-rapl:1:0", 2_000_020)
    assert package.read()[1] - start[0] == pytest.approx(1.5)
    assert dram.read()[1] - start[1] == pytest.approx(2.0)
    put(top, "intel-rapl:1", 262_143_328_850)
    middle = package.read()[1]
    put(top, "intel-rapl:1", 1_000_000)
    assert package.read()[1] - middle == pytest.approx(1.0)


def test_a_counter_that_was_set_back_ends_the_meter_instead_of_inventing_joules(tree):
    top = tree({"intel-rapl:0": ("package-0", 30_000_000_000)})
    meter = opened(found()["powercap:package"])
    meter.read()
    put(top, "intel-rapl:0", 5)
    with pytest.raises(
        OSError, match=r"package-0: the counter fell from 30000000000 to 5 uJ, which is no wrap"
    ):
        meter.read()


@pytest.mark.parametrize("content", ["", "busy\n", "-4\n"])
def test_a_counter_that_holds_no_number_is_an_error_of_one_line(tree, content):
    top = tree({"intel-rapl:0": ("package-0", 1)})
    info = found()["powercap:package"]
    meter = opened(info)
    (top / "intel-rapl:0/energy_uj").write_text(content)
    with pytest.raises(OSError, match="no number"):
        meter.read()
    answer = found()["powercap:package"]
    assert isinstance(answer, Unavailable)
    assert "no number" in answer.reason


def test_memory_of_some_packages_only_is_no_sum(tree):
    tree({"intel-rapl:0": ("package-0", 1), "intel-rapl:0:0": ("dram", 1), "intel-rapl:1": ("package-1", 1)})
    answer = found()["powercap:dram"]
    assert isinstance(answer, Unavailable)
    assert answer.reason == "only package-0/dram of 2 packages"
    assert isinstance(found()["powercap:package"], MeterInfo)


def test_without_memory_zones_there_is_the_package_alone(tree):
    tree({"intel-rapl:0": ("package-0", 1), "intel-rapl:0:0": ("core", 1)})
    assert list(found()) == ["powercap:package"]


DIES = {
    f"intel-rapl:{index}": (f"package-{package}-die-{die}", 1_000)
    for index, (package, die) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)])
}


def test_intel_dies_are_added(tree):
    tree(DIES)
    zones = [zone["zone"] for zone in found()["powercap:package"].details["zones"]]
    assert zones == ["package-0-die-0", "package-0-die-1", "package-1-die-0", "package-1-die-1"]


def test_amd_dies_show_their_package_so_that_one_of_each_is_read(tree):
    top = tree(DIES, AMD)
    info = found()["powercap:package"]
    assert [zone["zone"] for zone in info.details["zones"]] == ["package-0-die-0", "package-1-die-0"]
    assert [Path(path).name for path in info.details["left_out"]] == ["intel-rapl:1", "intel-rapl:3"]
    meter = opened(info)
    meter.read()
    for zone in DIES:
        put(top, zone, 1_001_000)
    assert meter.read()[1] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("cpuinfo", "provenance"),
    [(AMD, "modelled"), (INTEL.format(42), "modelled"), (INTEL.format(60), "measured")],
    ids=["amd", "sandy bridge", "haswell"],
)
def test_what_a_processor_models_is_not_called_measured(tree, cpuinfo, provenance):
    tree({"intel-rapl:0": ("package-0", 1)}, cpuinfo)
    assert found()["powercap:package"].provenance == provenance


def test_mmio_zones_are_read_where_there_are_no_others(tree):
    tree({"intel-rapl-mmio:0": ("package-0", 1)})
    assert [Path(zone["path"]).name for zone in found()["powercap:package"].details["zones"]] == [
        "intel-rapl-mmio:0"
    ]


def test_more_than_ten_zones_keep_their_parents(tree):
    tree({f"intel-rapl:{i}": (f"package-{i}", i) for i in range(12)} | {"intel-rapl:10:0": ("dram", 1)})
    info = found()["powercap:package"]
    assert [zone["zone"] for zone in info.details["zones"]] == [f"package-{i}" for i in range(12)]
    assert found()["powercap:dram"].reason == "only package-10/dram of 12 packages"


def test_nested_folders_alone_are_enough(tree):
    top = tree(LAPTOP)
    for link in top.glob("intel-rapl*:*"):
        link.unlink()
    assert list(found()) == ["powercap:package", "powercap:dram", "powercap:psys"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_counters_for_root_only_are_unavailable_with_the_fix(trees, monkeypatch):
    root = Path(tempfile.mkdtemp())
    try:
        root.chmod(0o755)
        monkeypatch.setenv("HARNESS_SYSROOT", str(root))
        trees.refuse(trees.build(root, LAPTOP, COFFEE_LAKE))
        answers = trees.as_nobody(lambda: [asdict(answer) for answer in ENTRY.probe()])
    finally:
        shutil.rmtree(root)
    assert [answer["name"] for answer in answers] == ["powercap"]
    assert "only root may read" in answers[0]["reason"]
    assert "CVE-2020-8694" in answers[0]["reason"]
    assert "sudo chmod a+r /sys/class/powercap/intel-rapl*:*/energy_uj" in answers[0]["fix"]
    assert 'SUBSYSTEM=="powercap"' in answers[0]["fix"]


def test_a_virtual_machine_is_named_as_the_reason(tree):
    tree({}, COFFEE_LAKE.replace("fpu", "fpu hypervisor"))
    (answer,) = ENTRY.probe()
    assert "virtual machine" in answer.reason
    assert "host" in answer.fix


@pytest.mark.parametrize(
    ("cpuinfo", "reason", "fix"),
    [
        (COFFEE_LAKE, "the kernel shows no RAPL zone", "modprobe"),
        ("CPU implementer\t: 0x41\n", "x86 processors only", ""),
    ],
)
def test_no_zones(tree, cpuinfo, reason, fix):
    tree({}, cpuinfo)
    (answer,) = ENTRY.probe()
    assert reason in answer.reason
    assert fix in answer.fix


def test_zones_masked_in_a_container(tree, tmp_path):
    tree({})
    (tmp_path / "sys/class/powercap").mkdir(parents=True)
    (tmp_path / "sys/class/powercap/intel-rapl:0").symlink_to("../../devices/virtual/powercap/intel-rapl:0")
    (answer,) = ENTRY.probe()
    assert "masked in this container" in answer.reason


def test_a_suite_may_name_the_root(trees, tmp_path):
    top = trees.build(tmp_path, LAPTOP)
    infos = list(ENTRY.describe(ENTRY.params(root=str(top))))
    assert [info.name for info in infos] == ["powercap:package", "powercap:dram", "powercap:psys"]
    assert infos[0].details["zones"][0]["path"].startswith(str(tmp_path))
    with pytest.raises(ValueError, match=r"root: /nowhere is no folder"):
        list(ENTRY.describe(ENTRY.params(root="/nowhere")))


def test_a_zone_that_disappears_is_an_oserror(tree):
    top = tree(LAPTOP)
    info = found()["powercap:package"]
    shutil.rmtree(top / "intel-rapl")
    with pytest.raises(OSError, match="energy_uj"):
        opened(info)


def test_readings_of_a_counter_that_wraps_at_each_step_add_up():
    counter = powercap.Unwrapped("zone", 1_000)
    totals = [counter.add(0, value % 1_000) for value in range(0, 50_000, 999)]
    assert totals == list(range(0, 50_000, 999))


def test_reading_costs_little_and_keeps_no_files(tree):
    top = tree(LAPTOP)

    def kept():
        return [file.path for file in psutil.Process().open_files() if file.path.startswith(str(top))]

    meter = opened(found()["powercap:package"])
    assert meter.read()[1] == 0.0
    assert kept() == [str(top / "intel-rapl/intel-rapl:0/energy_uj")]
    meter.close()
    assert kept() == []
