"""Tensors that live on a node and compute there: a session's tensors, autograd graph and optimizers, by name.

`session` is the whole of it (`TensorSession`), without sockets: a child process holds one and is told what to do in
plain values. Functions are found in a table of names (`functions`), arguments are literals and references
(`arguments`), results are sized before they are computed (`sizes`), and what is held is counted (`ledger`). torch's
graph is read as it grows (`graph`), and backward passes tell of their way (`passes`).
"""
