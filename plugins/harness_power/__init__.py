"""Meters of power and energy, and what tells the state of boards and GPUs."""
