"""Measuring. In: one cell of a plan. Out: the fields of its record."""
