"""Data sets of a suite: check parameters and choices, and describe the facts. No data is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from harness.contracts.datasets import check_info
from harness.data.choice import as_weights_expect, effective_info
from harness.errors import BrokenContract, HarnessError, SuiteError, nearest
from harness.plan.entries import Entries
from harness.plan.identity import DATA
from harness.plugins import Plugins
from harness.registry import Origin
from harness.store.hashing import core_hash, digest
from harness.suite.suite import Suite
from harness.suite.validate import validated
from harness.suite.yamlfile import KeyPath, YamlBlock
from harness.types import DataInfo, Preprocessing
from harness.types.data import DataChoice
from harness.types.plain import to_json
from harness.types.plan import DataRef

__all__ = ["ChosenData", "Datasets"]


@dataclass(frozen=True)
class ChosenData:
    """A checked data set: its entry, its parameters, and its effective facts. ``key`` is the key of its node.

    ``broken`` says in one line why the plugin gives no facts, or is None. The facts are then empty. ``differences``
    says in what the suite's preprocessing differs from that of the method's pretrained weights. ``where`` is the place
    in the suite that names the data set.
    """

    ref: DataRef
    info: DataInfo
    origin: Origin
    key: str
    broken: str | None = None
    differences: tuple[str, ...] = ()
    where: str = ""


@dataclass
class Datasets:
    """The data blocks of a suite, each resolved once."""

    suite: Suite
    plugins: Plugins
    entries: Entries
    _known: dict[str, ChosenData] = field(default_factory=dict)

    def choose(
        self, own: YamlBlock | None, path: KeyPath, weights: Preprocessing | None = None
    ) -> ChosenData:
        """Return the data set of a method whose ``data`` block is ``own``, at ``path`` of the suite.

        Keys that the block lacks come from the suite's block, as far as they hold for its data. Keys of the
        preprocessing that both lack come from ``weights``, the pretrained weights of the method.

        Raises:
            SuiteError: a key or value is wrong.
        """
        block = own or {}
        merged = {**self._inherited(block), **block}
        memo = digest([merged, to_json(weights)])
        if memo not in self._known:
            place = path if own is not None else ("data",)
            self._known[memo] = self._describe(merged, block, place, weights)
        return self._known[memo]

    def _inherited(self, block: YamlBlock) -> YamlBlock:
        """Return the keys of the suite's data that hold for a method's ``block``: none for another data set.

        Another source of the same data set has the suite's choice of images and way of reading, but facts of its own.
        """
        base = dict(self.suite.data)
        name = base.get("name")
        if block.get("name", name) != name:
            return {}
        if not isinstance(name, str) or name not in self.plugins.datasets:
            return base
        entry = self.plugins.datasets.get(name).entry
        if block.get(entry.source, base.get(entry.source)) == base.get(entry.source):
            return base
        shared = {*DataChoice.model_fields, *entry.reading}
        return {key: value for key, value in base.items() if key in shared}

    def _describe(
        self, merged: YamlBlock, own: YamlBlock, path: KeyPath, weights: Preprocessing | None
    ) -> ChosenData:
        source = self.suite.source

        def place(key: str) -> KeyPath:
            return (*path, key) if key in own else ("data", key)

        name = merged.get("name")
        if not isinstance(name, str):
            raise SuiteError(f"{source.where(*path)}: name: missing; which data set?")
        registered = self.entries.get(self.plugins.datasets, name, place("name"))
        entry = registered.entry
        common = {key: value for key, value in merged.items() if key in DataChoice.model_fields}
        rest = {key: value for key, value in merged.items() if key not in common}
        for key in rest:
            if key not in entry.params.model_fields:
                allowed = [*DataChoice.model_fields, *entry.params.model_fields]
                raise SuiteError(f"{source.where(*place(key))}: unknown key; {nearest(key, allowed)}")
        choice = validated(DataChoice, common, source, path)
        self.entries.use(registered)
        ref = DataRef(entry=name, params={}, choice=choice)
        try:
            params = self.entries.params(self.plugins.datasets, name, rest, path)
        except BrokenContract as error:
            return ChosenData(ref, _unknown(name), registered.origin, "", broken=str(error))
        try:
            ref = replace(ref, params=params.model_dump(mode="json"))
            with self.plugins.datasets.calling(name, "describe"):
                stored = entry.describe(params)
            check_info(self.plugins.datasets.need(name), stored)
            differences: tuple[str, ...] = ()
            if weights is not None:
                choice, differences = as_weights_expect(
                    choice, common, weights, stored, cut=ref.params.get("crop") == "center"
                )
                ref = replace(ref, choice=choice)
            info = effective_info(stored, choice)
        except BrokenContract as error:
            return ChosenData(ref, _unknown(name), registered.origin, "", broken=str(error))
        except (ValueError, HarnessError) as error:
            raise SuiteError(f"{source.where(*path)}: {error}") from None
        ref = replace(ref, fingerprint=info.fingerprint)
        content = {
            "stage": "data",
            **to_json(ref),
            # a builder may match the head of weights by the names of the classes
            "prepared": [info.class_names, info.shape, info.mean, info.std],
            "source": self.plugins.code_of(entry, registered.origin),
            "core": core_hash(*DATA),
        }
        where = source.where(*path)
        return ChosenData(ref, info, registered.origin, digest(content), differences=differences, where=where)


def _unknown(name: str) -> DataInfo:
    """Return the facts of a data set whose plugin gives none."""
    return DataInfo(name=name, shape=(0, 0, 0), class_names=(), sizes={}, mean=(), std=())
