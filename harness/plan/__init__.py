"""Plan a suite, without torch.

In: a suite and the loaded plugins. Out: a plan of preparing nodes and cells.
"""
