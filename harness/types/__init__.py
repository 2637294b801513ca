"""The value types that travel between the rooms of the harness, and the entries that plugins give.

Importing this package never imports torch. Shapes never count the batch dimension.
"""

from harness.types.context import Context, Evaluation, FitResult
from harness.types.data import Data, DataInfo, Dataset, Split
from harness.types.devices import Device, DeviceInfo, DeviceSpec, Fleet, Unavailable
from harness.types.entries import (
    BackendEntry,
    CompressorEntry,
    DatasetEntry,
    MeterEntry,
    ModelEntry,
    PartitionerEntry,
    PlacerEntry,
)
from harness.types.fleet import Answer, Answers, Graph, GraphPart, Peer, PeerAddress
from harness.types.measuring import Clock, DeviceReport, Samples, Scenario, Workload
from harness.types.meters import SCOPES, Log, Meter, MeterInfo, MeterUse, Monitor, Provenance, Scope, Watch
from harness.types.models import (
    IMAGE,
    Counts,
    Edge,
    Lineage,
    Model,
    ModuleSpec,
    Part,
    Partition,
    PartSketch,
    Placement,
    Sketch,
    TensorSpec,
    TrainingCost,
)
from harness.types.params import Params
from harness.types.runtimes import Artifact, RuntimeEntry, Session, SessionOptions

__all__ = [
    "PeerAddress",
    "Peer",
    "GraphPart",
    "Graph",
    "Clock",
    "DeviceReport",
    "Answers",
    "Answer",
    "IMAGE",
    "SCOPES",
    "Artifact",
    "BackendEntry",
    "CompressorEntry",
    "Context",
    "Counts",
    "Data",
    "DataInfo",
    "Dataset",
    "DatasetEntry",
    "Device",
    "DeviceInfo",
    "DeviceSpec",
    "Edge",
    "Evaluation",
    "FitResult",
    "Fleet",
    "Lineage",
    "Workload",
    "Log",
    "Meter",
    "MeterEntry",
    "MeterInfo",
    "MeterUse",
    "Model",
    "ModelEntry",
    "ModuleSpec",
    "Monitor",
    "Params",
    "Part",
    "PartSketch",
    "Partition",
    "PartitionerEntry",
    "Placement",
    "PlacerEntry",
    "Provenance",
    "RuntimeEntry",
    "Samples",
    "Scenario",
    "Scope",
    "Session",
    "SessionOptions",
    "Sketch",
    "Split",
    "TensorSpec",
    "TrainingCost",
    "Unavailable",
    "Watch",
]
