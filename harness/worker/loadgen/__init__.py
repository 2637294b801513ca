"""Load generation. In: a query function and a load. Out: the time of each query."""
