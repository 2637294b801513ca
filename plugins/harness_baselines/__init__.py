"""Baselines: compressors, partitioners and placers to compare the methods with."""
