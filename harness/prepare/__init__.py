"""Prepare nodes in child processes. In: one node of a plan. Out: its artifact in the store."""
