"""Count a module. In: a module and its input shapes. Out: parameters, multiply-accumulates and memory."""
