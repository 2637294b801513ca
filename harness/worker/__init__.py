"""The process that runs a model, without torch. In: an exported artifact and a workload. Out: raw samples."""
