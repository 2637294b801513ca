"""The process beside the model, without torch. In: an exported artifact and a workload. Out: raw samples."""
