"""Reading suites. In: a YAML file. Out: a checked suite with line numbers."""
