"""Meters of power and energy, and watches of the state of boards and GPUs."""
