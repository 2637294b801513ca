"""Read suites. In: a YAML file. Out: a checked suite that knows the line of every value."""
