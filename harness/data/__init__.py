"""Data sets as a suite chooses them.

In: a data-set entry and the suite's choice. Out: opened splits of images and labels.
"""
