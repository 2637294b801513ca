"""Run the command line with ``python -m harness``."""

import os
import sys

if not getattr(sys.flags, "safe_path", False) and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]  # python -m puts the current folder first: a file random.py there would be imported

from harness.cli import main

if __name__ == "__main__":
    main()
