"""The process beside the model, without torch. In: an exported artifact and a load. Out: raw samples."""
