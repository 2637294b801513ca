"""Claims of papers. In: a claims file, modules and records. Out: a verdict per claim."""
