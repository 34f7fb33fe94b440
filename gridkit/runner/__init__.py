"""The runner: the child process in which a node computes. torch is loaded here and never in the node's own process.

A node starts one when it first needs it (`gridkit.node.runner`), gives it plans, which are data, and kills it when it
takes too long. It holds no secret of the node's and no open file but those that it is handed.
"""
