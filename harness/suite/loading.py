"""Load a suite file, and check its references."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import SuiteError, nearest
from harness.suite.grids import expand_grids, set_value, split_overrides
from harness.suite.suite import Suite
from harness.suite.validate import validated
from harness.suite.yamlfile import Source, Tree, dump_yaml, read_text, read_yaml

__all__ = ["OWN", "keep_devices", "load_suite", "suite_text"]

OWN = "x-"
"""Top-level keys that begin so are the author's: a place for anchors. The harness does not read them."""


def load_suite(path: Path, overrides: Sequence[str] = ()) -> Suite:
    """Read a suite, expand its grids and check it. ``overrides`` are texts ``key.path=value`` from ``--set``.

    Raises:
        SuiteError: the suite is wrong. The message has file:line, key, what is allowed, and the nearest match.
    """
    tree, source, expanded = _with_written(path, overrides)
    _expand(tree, source, expanded)
    suite = validated(Suite, tree, source, ()).located(source)
    _check_names(suite)
    return suite


def suite_text(path: Path, overrides: Sequence[str] = ()) -> str:
    """Return YAML that loads as the suite with ``overrides`` does: the file itself if there are none.

    With overrides, comments are lost. Grids stay, unless an override is for a method that a grid makes.

    Raises:
        SuiteError: the file cannot be read, or an override is wrong.
    """
    if not overrides:
        return read_text(path, "a suite")
    tree, source, expanded = _with_written(path, overrides)
    if expanded:
        _expand(tree, source, expanded)
    return dump_yaml(tree)


def _with_written(path: Path, overrides: Sequence[str]) -> tuple[Tree, Source, list[str]]:
    """Return a suite's tree with the overrides of written keys, and the overrides of methods that grids make."""
    tree, source = read_yaml(path)
    if not isinstance(tree, dict):
        raise SuiteError(f"{source.where()}: a suite is a mapping of keys (suite:, data:, methods: ...)")
    for key in [key for key in tree if key.startswith(OWN)]:
        del tree[key]
    written, expanded = split_overrides(tree, overrides)
    for override in written:
        set_value(tree, source, override, Suite.model_fields)
    return tree, source, expanded


def _expand(tree: Tree, source: Source, overrides: Sequence[str]) -> None:
    expand_grids(tree, source)
    for override in overrides:
        set_value(tree, source, override, Suite.model_fields)


def keep_devices(suite: Suite, names: Sequence[str]) -> Suite:
    """Return the suite with only the cells on devices ``names``; all cells if ``names`` is empty.

    Raises:
        SuiteError: the suite has no such device, or no run block uses it.
    """
    for name in names:
        if name not in suite.devices:
            raise SuiteError(f"--device {name}: no such device; {nearest(name, suite.devices)}")
    if not names:
        return suite
    run = []
    for item in suite.run:
        devices = tuple(device for device in item.devices if device in names)
        if devices:
            run.append(item.model_copy(update={"devices": devices}))
    if not run:
        raise SuiteError(f"--device {', '.join(names)}: no run: block uses it")
    return suite.model_copy(update={"run": tuple(run)})


def _check_names(suite: Suite) -> None:
    """Check that the names in ``from``, fleets, run blocks and ``baseline`` exist in the suite."""
    source = suite.source
    for name, method in suite.methods.items():
        if method.from_ is not None and method.from_ not in suite.methods:
            raise SuiteError(
                f"{source.where('methods', name, 'from')}: no method {method.from_!r}; "
                f"{nearest(method.from_, suite.methods)}"
            )
    _check_cycles(suite)
    for name, device in suite.devices.items():
        for index, member in enumerate(device.fleet or ()):
            where = source.where("devices", name, "fleet", index)
            if member not in suite.devices:
                raise SuiteError(f"{where}: no device {member!r}; {nearest(member, suite.devices)}")
            if suite.devices[member].fleet is not None:
                raise SuiteError(f"{where}: {member!r} is a fleet itself")
        if device.central is not None and device.central not in (device.fleet or ()):
            raise SuiteError(
                f"{source.where('devices', name, 'central')}: {device.central!r} is not in the fleet; "
                f"{nearest(device.central, device.fleet or ())}"
            )
    for index, item in enumerate(suite.run):
        for position, device_name in enumerate(item.devices):
            if device_name not in suite.devices:
                raise SuiteError(
                    f"{source.where('run', index, 'devices', position)}: no device {device_name!r}; "
                    f"{nearest(device_name, suite.devices)}"
                )
    if suite.baseline is not None and suite.baseline not in suite.methods:
        raise SuiteError(
            f"{source.where('baseline')}: no method {suite.baseline!r}; {nearest(suite.baseline, suite.methods)}"
        )


def _check_cycles(suite: Suite) -> None:
    for start in suite.methods:
        chain = [start]
        while (parent := suite.methods[chain[-1]].from_) is not None:
            if parent in chain:
                loop = [*chain[chain.index(parent) :], parent]
                raise SuiteError(
                    f"{suite.source.where('methods', chain[-1], 'from')}: goes in a circle: {' -> '.join(loop)}"
                )
            chain.append(parent)
