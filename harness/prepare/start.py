"""What a model keeps of the pretrained weights from which it was built: notes for its lineage, and a check of its head."""

from __future__ import annotations

from collections.abc import Sequence

from harness.data.choice import as_weights_expect
from harness.errors import CellError
from harness.types import Context, Lineage, ModelEntry, Params
from harness.types.data import DataChoice
from harness.types.json import Facts

__all__ = ["check_head", "start_notes"]


def start_notes(builder: ModelEntry, params: Params, context: Context, choice: DataChoice) -> Facts:
    """Return what the lineage says about the pretrained weights of a model; nothing for random weights.

    ``weights`` names them, ``head`` says how their classes match those of the data, ``new_head`` that they do not, and
    ``adapted`` lists what else differs from them.
    """
    info = context.data.info
    start = builder.weights(params, info) if builder.weights is not None else None
    if start is None:
        return {}
    adapted = list(start.adapted)
    preprocessing = builder.preprocessing(params) if builder.preprocessing is not None else None
    if preprocessing is not None:
        adapted += as_weights_expect(choice, DataChoice.model_fields, preprocessing, info)[1]
    return {"weights": start.source, "head": start.head, "new_head": start.new_head, "adapted": adapted}


def check_head(lineage: Sequence[Lineage]) -> None:
    """Refuse to export a model with a new head that no step trained. Planning refuses what it can know.

    Raises:
        CellError: the head is random.
    """
    new = [step for step in lineage if step.notes.get("new_head")]
    if new and not any(step.image_passes for step in lineage):
        raise CellError(
            f"the head is random: it is {new[0].notes['head']}, and no step trained it", stage="build"
        )
