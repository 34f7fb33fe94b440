"""What a round is: NumPy only, no I/O, no clock. The node and the simulator are shells around it."""
