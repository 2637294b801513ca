"""Claims of papers. In: a claims file, modules and records. Out: one verdict per claim."""
