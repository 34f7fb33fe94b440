"""Tensors that live on a node and compute there, as torch code in a notebook uses them.

`remote` is the tensor: a subclass of torch.Tensor that knows its shape, and has every function of torch run on the node
(`functions`). What is behind it is a `handle`; `modules` and `optimizers` are nn modules and torch.optim on such
tensors, `graph` is what autograd recorded. How all of it is sent is `gridkit.client.tensors`.
"""
