"""How to install what is missing, in the way in which the harness itself was installed.

The name ``edge-harness`` is on no index, so ``pip install 'edge-harness[agent]'`` would find nothing, or somebody
else's package.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlparse

__all__ = ["MODULES", "install_command", "missing_module"]

NAME = "edge-harness"

MODULES = {
    "agent": ("cryptography", "grpc", "google"),
    "bench": (
        "onnx",
        "onnxscript",
        "PIL",
        "pyarrow",
        "safetensors",
        "sklearn",
        "scipy",
        "timm",
        "torch",
        "onnxruntime",
    ),
    "hub": ("datasets",),
    "multi-gpu": ("accelerate",),
    "nvidia": ("pynvml",),
    "rapl": ("pyRAPL",),
    "i2c": ("smbus2",),
    "monsoon": ("Monsoon", "usb"),
    "joulescope": ("joulescope",),
    "loadgen": ("mlcommons_loadgen", "mlperf_loadgen"),
    "jetson": ("jtop",),
}
"""Extra -> the top-level modules that it installs."""


def missing_module(error: BaseException) -> str | None:
    """Return one line about the module that an import did not find, or None if no extra installs it."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    top = error.name.partition(".")[0]
    extra = next((extra for extra, modules in MODULES.items() if top in modules), None)
    return f"needs {top}, which is not installed: {install_command(extra)}" if extra is not None else None


def install_command(extra: str, installed: Distribution | None = None, here: Path | None = None) -> str:
    """Return the command that installs an extra of the harness.

    It names the checkout, the wheel or the repository from which the harness was installed. If that is unknown or
    gone, it names the packages of the extra, so that it is right wherever the harness came from.

    Args:
        extra: a name in ``[project.optional-dependencies]``.
        installed: the harness's distribution, by default the installed one.
        here: the current folder, from which a path may be short.
    """
    if installed is None:
        try:
            installed = distribution(NAME)
        except PackageNotFoundError:
            installed = None
    by = (installed.read_text("INSTALLER") or "").strip() if installed is not None else ""
    pip = "uv pip install" if by == "uv" else "pip install"
    source = _source(installed, here)
    if source is not None:
        return f"{pip} {'-e ' if source.editable else ''}{_quoted(source.with_extra(extra))}"
    packages = _packages(installed, extra) if installed is not None else []
    return (
        f"{pip} {' '.join(map(_quoted, packages))}" if packages else f"install the extra {extra!r} of {NAME}"
    )


@dataclass(frozen=True)
class _Source:
    """Where the harness was installed from. ``remote``: an address that pip downloads, not a path."""

    place: str
    editable: bool = False
    remote: bool = False

    def with_extra(self, extra: str) -> str:
        """Return the requirement that names this source and ``extra``."""
        return f"{NAME}[{extra}] @ {self.place}" if self.remote else f"{self.place}[{extra}]"


def _source(installed: Distribution | None, here: Path | None) -> _Source | None:
    """Return the source of an installation: what pip noted (PEP 610), else the checkout that is imported."""
    noted = _noted(installed)
    address = str(noted.get("url", ""))
    vcs = noted.get("vcs_info")
    if isinstance(vcs, dict):
        folder = f"#subdirectory={noted['subdirectory']}" if noted.get("subdirectory") else ""
        version = vcs.get("requested_revision") or vcs.get("commit_id")
        return _Source(f"{vcs.get('vcs')}+{address}{f'@{version}' if version else ''}{folder}", remote=True)
    if address.startswith(("https://", "http://")):
        return _Source(address, remote=True)
    if address.startswith("file://"):
        path = Path(unquote(urlparse(address).path))
        about = noted.get("dir_info")
        editable = isinstance(about, dict) and bool(about.get("editable"))
        return _Source(_short(path, here), editable=editable) if path.exists() else None
    checkout = Path(__file__).resolve().parents[1]
    project = checkout / "pyproject.toml"
    if project.is_file() and f'name = "{NAME}"' in project.read_text(encoding="utf-8", errors="replace"):
        return _Source(_short(checkout, here), editable=True)
    return None


def _noted(installed: Distribution | None) -> dict[str, object]:
    """Return the content of ``direct_url.json``, or nothing if there is none."""
    text = installed.read_text("direct_url.json") if installed is not None else None
    try:
        noted = json.loads(text or "{}")
    except ValueError:
        return {}
    return noted if isinstance(noted, dict) else {}


def _short(path: Path, here: Path | None) -> str:
    """Return ``.`` for the current folder, else the whole path."""
    try:
        return "." if path.resolve() == (here or Path.cwd()).resolve() else str(path)
    except OSError:  # the current folder is deleted
        return str(path)


def _packages(installed: Distribution, extra: str) -> list[str]:
    """Return the requirements of an extra, without environment markers."""
    wanted = re.compile(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""")
    requirements = [text.split(";") for text in installed.requires or []]
    return [words[0].strip() for words in requirements if len(words) > 1 and wanted.search(words[1])]


def _quoted(text: str) -> str:
    return shlex.quote(text) if os.sep in text or not re.fullmatch(r"[\w.-]+", text) else text
