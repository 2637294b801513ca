"""Running. In: a plan. Out: records on disk, and the outcome."""
