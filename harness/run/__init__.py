"""Run a plan. In: a plan. Out: records on disk, and the outcome."""
