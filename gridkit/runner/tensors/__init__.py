"""Tensors that live on a node and compute there: a session's tensors, autograd graph and optimizers, by name.

`session.TensorSession` is the whole of it, without sockets: a child process holds one, is told what to do in plain
values, and tells in return what a mirror of the tensors needs to know. Functions are found in a table of names
(`functions`), arguments are literals and references (`arguments`), results are sized before they are computed
(`sizes`), and what is held is counted (`ledger`). torch's graph is told as it grows (`graph`, `variables`), and
backward passes tell of their way (`passes`). `serve` is that child's loop, which tells all of it in the words of
`gridkit.v1` (`telling`).

The first call of torch's meta device, and the first optimizer, load parts of torch that take a second: a process does
both before it limits its memory, and before anybody waits.
"""
