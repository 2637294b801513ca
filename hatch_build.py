"""Puts the suites into the wheel as ``harness/_suites``.

Only into real wheels: an editable install reads ``suites/`` from the checkout, so no stale copy is left.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SuitesHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"]["suites"] = "harness/_suites"
