"""Open the data set that a suite chooses.

In: a data-set entry and the suite's choice. Out: opened splits of images and labels.
"""
