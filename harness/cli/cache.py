"""The commands ``harness cache list`` and ``harness cache clear``."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from harness.cli.output import echo, echo_json


@click.group("cache")
def command() -> None:
    """List or delete prepared artifacts: trained, compressed, split and exported models."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List every artifact, the last used first."""
    from harness.store.artifacts import Store
    from harness.store.files import default_cache

    store = Store(default_cache())
    stored = store.stored()
    if as_json:
        echo_json([asdict(item) for item in stored])
        return
    for item in stored:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(item.made))
        about = f"{item.about.stage:<10} {item.about.entry:<18} {item.about.label}"
        about += "" if item.usable else "  (without hashes: not used)"
        echo(f"{item.key[:12]}  {used}  {item.size / 1e6:9.2f} MB  {about}")
    echo(f"{len(stored)} artifacts, {sum(item.size for item in stored) / 1e6:.1f} MB in {store.root}")
    damaged, size = store.set_aside()
    if damaged:
        echo(
            f"{damaged} damaged, {size / 1e6:.1f} MB, set aside in {store.damaged}; `harness cache clear` deletes them"
        )


@command.command("clear")
@click.argument("keys", nargs=-1)
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(keys: tuple[str, ...], yes: bool) -> None:
    """Delete all artifacts, or only those with KEYS.

    A KEY may be the beginning of an artifact's key. Without KEYS, damaged artifacts that were set aside are deleted
    too. Records are not deleted.
    """
    from harness.errors import SuiteError
    from harness.store.artifacts import Store
    from harness.store.files import default_cache

    if any(not key.strip() for key in keys):
        raise SuiteError(
            "an empty KEY is the beginning of every key, so nothing is deleted; leave KEY out to delete all artifacts"
        )
    store = Store(default_cache())
    known = [item.key for item in store.stored()]
    chosen = [key for key in known if any(key.startswith(prefix) for prefix in keys)] if keys else None
    if keys:
        unknown = [prefix for prefix in keys if not any(key.startswith(prefix) for key in known)]
        if unknown:
            raise SuiteError(f"no artifact {', '.join(unknown)}; see `harness cache list`")
    count = len(known if chosen is None else chosen)
    if count and not yes:
        click.confirm(f"Delete {count} artifacts from {store.root}?", abort=True)
    echo(f"freed {store.clear(chosen) / 1e6:.1f} MB")
