"""Load generation. In: a query function and a workload. Out: the times of the queries."""
