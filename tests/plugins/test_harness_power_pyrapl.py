"""Tests of the pyRAPL meters: the unmodified library on powercap trees, compared with the powercap meters."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from harness.extras import install_command
from harness.types import MeterInfo, Unavailable
from harness_power import powercap, pyrapl
from harness_power.pyrapl import ENTRY

pytest.importorskip("pyRAPL")

DATA = Path(__file__).parents[1] / "data"
SERVER = {
    "intel-rapl:0": ("package-0", 100),
    "intel-rapl:0:0": ("dram", 200),
    "intel-rapl:1": ("package-1", 300),
    "intel-rapl:1:0": ("dram", 400),
}


@pytest.fixture
def trees(monkeypatch):
    monkeypatch.syspath_prepend(str(DATA))
    import powercap_tree

    yield powercap_tree
    sys.modules.pop("powercap_tree", None)


@pytest.fixture
def tree(trees, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_SYSROOT", str(tmp_path))

    def build(zones, packages):
        trees.sockets(tmp_path, packages)
        return trees.build(tmp_path, zones, "vendor_id\t: GenuineIntel\nflags\t\t: fpu\n")

    return build


def found(entry=ENTRY):
    return {info.name: info for info in entry.probe()}


def opened(info: MeterInfo, entry=ENTRY):
    return entry.open(MeterInfo(**json.loads(json.dumps(asdict(info)))))


def put(top: Path, zone: str, energy: int) -> None:
    (top / zone / "energy_uj").write_text(f"{energy}\n")


def test_packages_and_memory_are_watched_like_powercap_does(tree):
    tree(SERVER, [0, 0, 1, 1])
    ours, theirs = found(powercap.ENTRY), found()
    assert list(theirs) == ["pyrapl:package", "pyrapl:dram"]
    for mine, other in zip(ours.values(), theirs.values(), strict=True):
        assert (mine.scope, mine.watches, mine.provenance) == (other.scope, other.watches, other.provenance)


def test_the_library_asked_is_pyrapl_as_it_is(tree, monkeypatch):
    import pyRAPL

    tree(SERVER, [0, 1])
    asked = []
    energy = pyRAPL.Sensor.energy
    monkeypatch.setattr(pyRAPL.Sensor, "energy", lambda sensor: asked.append(1) or energy(sensor))
    meter = opened(found()["pyrapl:package"])
    asked.clear()
    meter.read()
    assert asked
    assert pyRAPL.device_api.os is os
    assert "open" not in vars(pyRAPL.device_api)


def test_a_wrap_on_one_socket_is_no_none_but_joules(tree):
    top = tree(SERVER | {"intel-rapl:0": ("package-0", 900_000, 1_000_000)}, [0, 1])
    meter = opened(found()["pyrapl:package"])
    start = meter.read()[1]
    put(top, "intel-rapl:0", 50_000)
    put(top, "intel-rapl:1", 2_000_300)
    assert meter.read()[1] - start == pytest.approx(0.15 + 2.0)
    meter.close()


def test_memory_is_read_from_its_own_zones(tree):
    top = tree(SERVER, [0, 1])
    meter = opened(found()["pyrapl:dram"])
    start = meter.read()[1]
    for zone in SERVER:
        put(top, zone, 1_000_400)
    assert meter.read()[1] - start == pytest.approx(1.000_200 + 1.0)


def test_without_memory_zones_there_is_the_package_alone(tree):
    tree({"intel-rapl:0": ("package-0", 1), "intel-rapl:0:0": ("core", 1)}, [0, 0])
    assert list(found()) == ["pyrapl:package"]


@pytest.mark.parametrize(
    ("zones", "packages"),
    [
        ({"intel-rapl:0": ("package-0-die-0", 1), "intel-rapl:1": ("package-0-die-1", 1)}, [0, 0]),
        ({"intel-rapl:0": ("package-0", 1)}, [0, 1]),
        ({"intel-rapl-mmio:0": ("package-0", 1)}, [0]),
    ],
    ids=["dies", "a socket without a zone", "mmio only"],
)
def test_a_machine_that_pyrapl_does_not_understand_is_unavailable(tree, zones, packages):
    tree(zones, packages)
    (answer,) = ENTRY.probe()
    assert isinstance(answer, Unavailable)
    assert "one package zone per socket" in answer.reason
    assert "powercap" in answer.fix


@pytest.mark.parametrize("name", ["package", "package-x"])
def test_a_zone_whose_name_pyrapl_cannot_read_is_unavailable(tree, name):
    tree({"intel-rapl:0": (name, 1)}, [0])
    (answer,) = ENTRY.probe()
    assert "cannot read this machine's zones" in answer.reason


def test_a_socket_that_is_gone_since_the_probe_is_an_error(tree):
    top = tree(SERVER, [0, 1])
    info = found()["pyrapl:package"]
    shutil.rmtree(top / "intel-rapl/intel-rapl:1")
    (top / "intel-rapl:1").unlink()
    shutil.rmtree(top.parents[1] / "devices/system/cpu/cpu1")
    (top.parents[1] / "devices/system/cpu/present").write_text("0\n")
    meter = opened(info)
    with pytest.raises(OSError, match=r"reads sockets \[0\], not \[0, 1\]"):
        meter.read()


def test_a_processor_that_is_offline_is_said(tree, tmp_path):
    tree(SERVER, [0, 1])
    shutil.rmtree(tmp_path / "sys/devices/system/cpu/cpu1")
    (answer,) = ENTRY.probe()
    assert "cpu1/topology/physical_package_id" in answer.reason


def test_memory_of_one_socket_only_leaves_the_package(tree):
    tree({zone: SERVER[zone] for zone in SERVER if zone != "intel-rapl:1:0"}, [0, 1])
    answers = found()
    assert isinstance(answers["pyrapl:package"], MeterInfo)
    assert "all or no dram zones" in answers["pyrapl:dram"].reason


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_counters_for_root_only_are_unavailable_with_the_fix(trees, monkeypatch):
    pyrapl.load_library()
    root = Path(tempfile.mkdtemp())
    try:
        root.chmod(0o755)
        monkeypatch.setenv("HARNESS_SYSROOT", str(root))
        trees.sockets(root, [0, 1])
        trees.refuse(trees.build(root, SERVER))
        answers = trees.as_nobody(lambda: [asdict(answer) for answer in ENTRY.probe()])
    finally:
        shutil.rmtree(root)
    assert len(answers) == 1
    assert "only root may read" in answers[0]["reason"]
    assert answers[0]["fix"] == powercap.FIX


def test_a_counter_that_holds_no_number_is_an_error_of_one_line(tree):
    top = tree(SERVER, [0, 1])
    meter = opened(found()["pyrapl:package"])
    (top / "intel-rapl:1/energy_uj").write_text("")
    with pytest.raises(OSError, match="no number"):
        meter.read()
    assert "no number" in found()["pyrapl:package"].reason


def test_no_zones_is_said_before_a_missing_package(tree, monkeypatch):
    tree({}, [0])
    monkeypatch.setitem(sys.modules, "pyRAPL", None)
    (answer,) = ENTRY.probe()
    assert answer.name == "pyrapl"
    assert "no RAPL zone" in answer.reason


def test_without_the_package_the_extra_is_named(tree, monkeypatch):
    tree(SERVER, [0, 1])
    monkeypatch.setattr(pyrapl, "find_spec", lambda name: None)
    (answer,) = ENTRY.probe()
    assert answer.fix == install_command("rapl")


def test_importing_it_says_nothing_and_leaves_logging_and_other_packages_alone(monkeypatch, recwarn, capfd):
    for name in [name for name in sys.modules if name.startswith("pyRAPL")]:
        monkeypatch.delitem(sys.modules, name)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    pandas = sys.modules.get("pandas")
    pyrapl.load_library()
    assert sys.modules.get("pandas", pandas) is pandas
    assert not root.handlers
    assert root.manager.disable == logging.NOTSET
    assert capfd.readouterr() == ("", "")
    assert not [warning for warning in recwarn if "pyRAPL" in str(warning.filename)]


class Advancing(threading.Thread):
    """Counts 5 to 25 mJ into each zone about every millisecond, in place and in figures of one width.

    No more than ``steps`` times: a reader that is held up would miss that a counter went round.
    """

    def __init__(self, top: Path, zones: dict, limit: int) -> None:
        super().__init__(daemon=True)
        self._files = {zone: os.open(top / zone / "energy_uj", os.O_WRONLY) for zone in zones}
        self._counted = {zone: zones[zone][1] for zone in zones}
        self._first = sum(self._counted.values())
        self.steps, self._limit, self._end = 0, limit, threading.Event()
        self._write()

    def _write(self) -> None:
        for zone, file in self._files.items():
            os.pwrite(file, b"%020d\n" % (self._counted[zone] % self._limit), 0)

    def run(self) -> None:
        step = 0
        while not self._end.wait(0.001):
            if self.steps == 0:
                continue
            self.steps -= 1
            for zone in self._files:
                step = (step * 7 + 11) % 21
                self._counted[zone] += 5_000 + step * 1_000
            self._write()

    def joules(self) -> float:
        return (sum(self._counted.values()) - self._first) / 1e6

    def stop(self) -> None:
        self._end.set()
        self.join()
        for file in self._files.values():
            os.close(file)


def test_both_agree_within_the_tick_while_the_counters_run_and_wrap(tree):
    limit = 1_000_000  # one joule, so that each zone wraps several times
    zones = {zone: (name, energy, limit) for zone, (name, energy) in SERVER.items()}
    top = tree(zones, [0, 0, 1, 1])
    ours = opened(found(powercap.ENTRY)["powercap:package"], powercap.ENTRY)
    theirs = opened(found()["pyrapl:package"])
    assert ours.read()[1] == theirs.read()[1] == 0.0
    packages = {zone: zones[zone] for zone in ("intel-rapl:0", "intel-rapl:1")}
    advancing = Advancing(top, packages, limit)
    advancing.start()
    until, readings = time.monotonic() + 60, 0
    while advancing.joules() <= 8.0 or readings <= 50:  # each zone wraps about four times
        assert time.monotonic() < until
        advancing.steps = 10
        before, between, after = ours.read()[1], theirs.read()[1], ours.read()[1]
        assert before <= between + 1e-9
        assert between <= after + 1e-9
        readings += 1
    advancing.stop()
    assert ours.read()[1] == pytest.approx(advancing.joules(), abs=1e-9)
    assert theirs.read()[1] == pytest.approx(advancing.joules(), abs=1e-9)


def _namespaces() -> bool:
    try:
        return (
            subprocess.run(
                ["unshare", "-Urnm", "mount", "-t", "tmpfs", "none", "/sys/class"],
                capture_output=True,
                timeout=10,
                check=False,
            ).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import powercap_tree
from harness_power import powercap, pyrapl
import pyRAPL.device_api
sockets = sorted(pyRAPL.device_api.get_socket_ids())
zones = {f"intel-rapl:{i}": (f"package-{s}", 999_000, 1_000_000) for i, s in enumerate(sockets)}
top = powercap_tree.build(Path("/"), zones)
infos = [next(iter(entry.probe())) for entry in (powercap.ENTRY, pyrapl.ENTRY)]
meters = [powercap.ENTRY.open(infos[0]), pyrapl.ENTRY.open(infos[1])]
start = [meter.read()[1] for meter in meters]
for zone in zones:
    (top / zone / "energy_uj").write_text("4000\\n")
print(json.dumps([len(sockets), [meter.read()[1] - was for meter, was in zip(meters, start)]]))
"""


@pytest.mark.skipif(not _namespaces(), reason="needs user and mount namespaces")
def test_pyrapl_reads_a_tree_that_stands_where_the_kernel_puts_it():
    command = 'mount -t tmpfs none /sys/class && exec "$0" -c "$1" "$2"'
    done = subprocess.run(
        ["unshare", "-Urnm", "sh", "-c", command, sys.executable, SCRIPT, str(DATA)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HARNESS_SYSROOT": "/"},
    )
    assert done.returncode == 0, done.stderr
    sockets, joules = json.loads(done.stdout)
    assert joules == pytest.approx([0.005 * sockets] * 2)
