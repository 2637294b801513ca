"""Data sets: embedded, in files, on the Hugging Face hub, and synthetic."""
