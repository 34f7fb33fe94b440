"""One module a protocol. Routes read a request, call one use-case of `Service`, and write the answer; nothing else."""
