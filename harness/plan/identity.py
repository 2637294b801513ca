"""The code of the core that is hashed into each kind of key.

If it changes, the results that depend on it are made again. Each name is a package or file below ``harness/``.
``tests/unit/test_identity.py`` walks the imports of training, exporting and measuring. It requires that every module
found there is listed here, or is an exception with a reason.
"""

from __future__ import annotations

__all__ = ["DATA", "EXPORTING", "MEASURING", "STATISTICS", "TRAINING"]

DATA = ("data", "types")
"""The code that decodes, chooses and resizes images."""
STATISTICS = ("stats/__init__.py", "stats/distributions.py", "stats/intervals.py", "stats/percentiles.py")
"""The statistics of one cell. Those that compare rows are in no key."""
TRAINING = (*DATA, "contracts/models.py", "methods.py", "prepare", *STATISTICS, "store/saved.py", "train")
"""The code that makes trained weights and the record of their training."""
EXPORTING = (*DATA, "contracts/models.py", "prepare", "store/saved.py", "train")
"""The code that makes an export and its reference answers."""
MEASURING = (*DATA, "devices.py", "machine", "measure", "quiet.py", *STATISTICS, "worker")
"""The code that determines a cell's figures."""
