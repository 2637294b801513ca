"""Load generation. In: a query function and a workload. Out: the time of each query."""
