"""Read a machine: kernel files, memory, state, and meters with the process that samples them."""
