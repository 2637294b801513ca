"""What the installed timm offers: its models, and the configuration of each model's pretrained weights.

Importing timm imports torch, which planning must not do. So this module reads timm's source. It finds the names of
models by their decorator, and runs only the definitions that give ``default_cfgs``, with timm's own registry. Tests
compare the result with the imported timm for every model.
"""

from __future__ import annotations
import __future__

import ast
import difflib
import importlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = [
    "Listing",
    "check_name",
    "fixed_patch",
    "imagenet_names",
    "listing",
    "pretrained_cfg",
    "tags_with_weights",
]

_MODEL = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)
_RENAMED = re.compile(r"^register_model_deprecations\(__name__, (\{.*?^\})\)", re.MULTILINE | re.DOTALL)
_PATCH = re.compile(r"_patch(\d+)(?:_|$)")
_SOURCE = "_harness_timm_source"
"""Name of a package that has the files of ``timm.models`` and skips its ``__init__``, which imports torch."""


@dataclass(frozen=True)
class Listing:
    """The models of an installation of timm.

    ``files``: name of a model -> its file. ``renamed``: an older name -> the present one, or None if the model is gone.
    """

    files: Mapping[str, Path]
    renamed: Mapping[str, str | None]


def check_name(name: str) -> None:
    """Check that timm has model ``name`` (``MODEL`` or ``MODEL.TAG``). Nothing is checked if timm is not installed.

    Raises:
        ValueError: timm has no such model, or the model no such tag. The message has the nearest matches.
    """
    known = listing()
    if known is None:
        return
    base, _, tag = name.partition(".")
    if base in known.renamed:
        new = known.renamed[base]
        hint = f"timm calls it {new} now" if new else "timm has removed it"
    elif base not in known.files:
        hint = _near(name, base, known.files)
    elif not tag or tag in (tags := _cfgs(base, known)):
        return
    else:
        hint = _near(name, name, [f"{base}.{other}" for other in tags if other])
    raise ValueError(f"unknown timm model {name!r}: {hint}")


def pretrained_cfg(name: str) -> Any:
    """Return timm's ``PretrainedCfg`` of model ``name``, as ``timm.get_pretrained_cfg`` does, or None without timm.

    Raises:
        ValueError: timm has no such model, or its source cannot be read.
    """
    known = listing()
    if known is None:
        return None
    check_name(name)
    base, _, tag = name.partition(".")
    cfgs = _cfgs(base, known)
    if not cfgs:
        return None
    return cfgs[tag or next(iter(cfgs))]


def fixed_patch(name: str) -> int | None:
    """Return the size of the patches of a model that drops pixels which no patch covers, or None for other models.

    It is in the names of these models, and their configuration says that they have a fixed input.
    """
    size = _PATCH.search(name.partition(".")[0])
    if size is None or name.startswith("tnt_"):  # tnt has no patch embedding of this kind
        return None
    cfg = pretrained_cfg(name)
    return int(size[1]) if cfg is not None and cfg.fixed_input_size else None


def tags_with_weights(name: str) -> list[str]:
    """Return the full names of the weights that timm has for the model of ``name``."""
    known, base = listing(), name.partition(".")[0]
    cfgs = _cfgs(base, known) if known is not None and base in known.files else {}
    return [f"{base}.{tag}" for tag, cfg in cfgs.items() if tag and cfg.has_weights]


@cache
def imagenet_names(classes: int) -> tuple[Sequence[str], ...]:
    """Return the names of the classes of timm's weights with so many classes, in the order of the rows.

    Each list names every class: WordNet identifiers, WordNet's words, the first of these words. There is none if the
    number is not that of an ImageNet that timm knows, or timm is not installed.
    """
    known = listing()
    if known is None:
        return ()
    imagenet = _timm_file(next(iter(known.files.values())).parent.parent / "data", "imagenet_info")
    subset = imagenet.infer_imagenet_subset({"num_classes": classes})
    if subset is None:
        return ()
    facts = imagenet.ImageNetInfo(subset)
    words = facts.label_descriptions()
    return tuple(facts.label_names()), tuple(words), tuple(text.partition(",")[0] for text in words)


@cache
def listing() -> Listing | None:
    """Return the models of the installed timm, or None if timm is not installed or lists its models otherwise."""
    found = find_spec("timm")
    if found is None or not found.submodule_search_locations:
        return None
    files: dict[str, Path] = {}
    renamed: dict[str, str | None] = {}
    for file in sorted((Path(found.submodule_search_locations[0]) / "models").glob("*.py")):
        text = file.read_text(encoding="utf-8")
        files.update(dict.fromkeys(_MODEL.findall(text), file))
        for names in _RENAMED.findall(text):
            renamed.update(ast.literal_eval(names))
    return Listing(files, renamed) if files else None


def _near(name: str, word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, [*known], n=3)
    return f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists what there is"


# --- configurations -------------------------------------------------------------------------------


def _cfgs(model: str, known: Listing) -> Mapping[str, Any]:
    """Return the configurations of a model by tag, the default one first; empty if timm has none for the model."""
    default = _defaults_of(known.files[model]).get(model)
    if default is None:
        return {}
    cfgs = {}
    for tag in default.tags:
        cfg = default.cfgs[tag]
        hub = cfg.hf_hub_id
        if hub == "timm/":  # as timm's register_model completes it
            hub += f"{model}.{tag}" if tag else model
        cfgs[tag] = replace(cfg, architecture=model, tag=tag or None, hf_hub_id=hub)
    return cfgs


@cache
def _defaults_of(file: Path) -> Mapping[str, Any]:
    """Return the ``default_cfgs`` of one of timm's files, by model.

    Raises:
        ValueError: the file defines them in a way that is not known here.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    code = compile(
        ast.Module(body=_needed(tree.body, "default_cfgs"), type_ignores=[]),
        str(file),
        "exec",
        flags=__future__.annotations.compiler_flag,
        dont_inherit=True,
    )
    names: dict[str, Any] = dict(vars(_timm_file(file.parent.parent / "data", "constants")))
    names["generate_default_cfgs"] = _timm_file(file.parent, "_registry").generate_default_cfgs
    try:
        exec(code, names)  # lines of timm, which run anyway as soon as timm is imported
    except Exception as error:
        raise ValueError(f"{file}: cannot read the weights of timm's models: {error}") from error
    return names.get("default_cfgs", {})  # type: ignore[no-any-return]


def _needed(body: Sequence[ast.stmt], name: str) -> list[ast.stmt]:
    """Return the statements at the top of a file that give ``name``, in their order."""
    wanted, size = {name}, 0
    while len(wanted) > size:
        size = len(wanted)
        for statement in body:
            if _bound(statement) & wanted:
                wanted |= {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
    return [statement for statement in body if _bound(statement) & wanted]


def _bound(statement: ast.stmt) -> set[str]:
    """Return the names that a statement at the top of a file defines or changes. Imports count if they are of Python's own."""
    if isinstance(statement, ast.FunctionDef):
        return {statement.name}
    if isinstance(statement, ast.Import):
        return {
            alias.asname or alias.name for alias in statement.names if alias.name in sys.stdlib_module_names
        }
    if not isinstance(statement, ast.Assign | ast.For):
        return set()
    targets = [
        target.value if isinstance(target, ast.Subscript) else target
        for part in ast.walk(statement)
        if isinstance(part, ast.Assign)
        for target in part.targets
    ]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _timm_file(folder: Path, name: str) -> ModuleType:
    """Import one file of a folder of timm without the folder's ``__init__``."""
    package = f"{_SOURCE}_{folder.name}"
    if package not in sys.modules:
        module = ModuleType(package)
        module.__path__ = [str(folder)]
        sys.modules[package] = module
    return importlib.import_module(f"{package}.{name}")
