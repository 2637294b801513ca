"""Profiles as files: where they are stored, and which one fits a device."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from harness.errors import StorageError, nearest
from harness.plan.profiles.profile import Link, Profile, ProfileError
from harness.store.files import read_regular, write_atomically
from harness.store.hashing import FileState, file_state
from harness.store.home import user_folder
from harness.suite.shipped import shipped_files

if TYPE_CHECKING:
    from harness.types import DeviceInfo, DeviceSpec

__all__ = [
    "MAX_BYTES",
    "SUFFIX",
    "link_of",
    "load_profile",
    "profile_names",
    "processor_of",
    "profile_of",
    "profiled",
    "profiles_folder",
    "read_profile",
    "stored_profile",
    "write_profile",
]


SUFFIX = ".profile.json"


MAX_BYTES = 2**20


def profiles_folder() -> Path:
    """Return ``$HARNESS_PROFILES``, else ``harness/profiles`` in the user's data folder.

    Raises:
        StorageError: the variable is not set, and the user has no home folder.
    """
    own = os.environ.get("HARNESS_PROFILES")
    if own:
        return Path(own)
    return user_folder("XDG_DATA_HOME", "set HARNESS_PROFILES to a folder for profiles") / "harness/profiles"


def read_profile(path: Path) -> Profile:
    """Read a profile's file.

    Raises:
        ProfileError: the file cannot be read, or is not a profile.
    """
    try:
        data = read_regular(path, MAX_BYTES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ProfileError(f"{path}: larger than a profile may be: at most {MAX_BYTES:,} bytes") from None
        raise ProfileError(f"{path}: {error.strerror or error}") from None
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"{path}: not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ProfileError(f"{path}: no profile: expected an object")
    tree.pop("lines", None)
    try:
        profile = Profile.model_validate(tree)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise ProfileError(f"{path}: {where}: {problem['msg'].removeprefix('Value error, ')}") from None
    _ = profile.line  # points without a line are refused here, not in the middle of a plan
    return profile


def write_profile(profile: Profile, path: Path | None = None) -> Path:
    """Write a profile to ``path``, by default to the place where plans look for it. Return the path.

    Raises:
        StorageError: it cannot be written.
    """
    about = (profile.name, profile.processor, profile.runtime or "any", f"{profile.threads or 'any'}.json")
    path = path or profiles_folder() / ".".join(filter(None, about))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(profile.to_json(), indent=1) + "\n")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def load_profile(name: str, threads: int | None = None, runtime: str | None = None) -> Profile:
    """Return the profile in the file ``name``, or the measured or shipped profile with that name.

    ``threads`` and ``runtime`` choose among several profiles of one device.

    Raises:
        ProfileError: there is no such profile, or it cannot be read.
    """
    path = Path(name)
    if path.is_file():
        return read_profile(path)
    profile = stored_profile((name,), threads, runtime) or stored_profile((name,), None, None)
    if profile is not None:
        return profile
    shipped = {key.rpartition("/")[2]: path for key, path in shipped_files(SUFFIX).items()}
    if name in shipped:
        return read_profile(shipped[name])
    known = {*shipped, *(path.name.partition(".")[0] for path in _stored())}
    raise ProfileError(f"profile {name}: no such file or profile; {nearest(name, known)}")


def stored_profile(
    names: Iterable[str], threads: int | None, runtime: str | None, processor: str | None = None
) -> Profile | None:
    """Return the first profile of ``names`` that was measured with these settings, or None.

    A setting of None means any value. The CPU and ONNX Runtime come before others.

    Raises:
        ProfileError: its file cannot be read.
    """
    asked = {"threads": threads, "runtime": runtime, "processor": processor}
    for name in names:
        profiles = [_kept(path) for path in _stored() if path.name.partition(".")[0] == name]
        matches = [
            profile
            for profile in profiles
            if all(value in (None, getattr(profile, key)) for key, value in asked.items())
        ]
        if matches:
            return min(matches, key=lambda p: (p.processor, p.runtime != "onnxruntime", p.threads or 0))
    return None


def profile_of(spec: DeviceSpec, runtime: str | None = None) -> Profile | None:
    """Return the measured profile of a suite's device with its number of threads, or None if there is none.

    Raises:
        ProfileError: its file cannot be read.
    """
    return stored_profile(profile_names(spec), spec.threads, runtime, processor_of(spec))


def processor_of(spec: DeviceSpec) -> str:
    """Return the processor of a board that computes (its parameter ``device``), or "" for its CPU."""
    return str(getattr(spec.params, "device", "cpu")).removeprefix("cpu")


def profile_names(spec: DeviceSpec) -> tuple[str, ...]:
    """Return the names under which a device's profile may be stored: the board's, the suite's, the backend's."""
    board = getattr(spec.params, "board", None)
    return tuple(dict.fromkeys(name for name in (board, spec.name, spec.backend) if name))


def profiled(specs: Sequence[DeviceSpec], infos: Sequence[DeviceInfo]) -> tuple[DeviceInfo, ...]:
    """Return ``infos`` with ``profile`` and ``link`` in the details of each device that has a measured profile.

    Only placers and sketches get these infos, so that no cell's identity or record depends on a profile.

    Raises:
        ProfileError: a profile cannot be read.
    """
    from dataclasses import asdict, replace

    from harness.types import DeviceLink

    known = []
    for spec, info in zip(specs, infos, strict=True):
        profile = profile_of(spec)
        if profile is not None:
            link = info.link
            if link is None and profile.link is not None:
                link = DeviceLink(rate_mbps=profile.link.rate_mbps, rtt_ms=profile.link.rtt_ms)
            details = {**info.details, "profile": asdict(profile.summary())}
            if link is not None:
                details.setdefault("link", {"rate_mbps": link.rate_mbps, "rtt_ms": link.rtt_ms})
            info = replace(info, link=link, details=details)
        known.append(info)
    return tuple(known)


def link_of(info: DeviceInfo) -> Link | None:
    """Return the link of a device to the other devices, or None if it is unknown."""
    if info.link is None:
        return None
    return Link(rate_mbps=info.link.rate_mbps, rtt_ms=info.link.rtt_ms)


def _kept(path: Path) -> Profile:
    try:
        state = file_state(path)
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror or error}") from None
    return _parsed(path, state)


@lru_cache(maxsize=256)
def _parsed(path: Path, state: FileState) -> Profile:
    return read_profile(path)


def _stored() -> list[Path]:
    try:
        folder = profiles_folder()
    except StorageError:  # a user without a home folder has no profiles
        return []
    return sorted(folder.glob("*.json"))
