"""Measure one cell. In: a cell of a plan. Out: the fields of its record."""
