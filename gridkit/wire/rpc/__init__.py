"""JSON-RPC 2.0 both ways between a notebook and a node: messages, values, and a channel that outlives its links.

No I/O here and no torch: the shells are the node's endpoint ``/ws/v0/rpc/`` and the client. From below:

`frames`    bytes of one frame: a text and the binary bodies that belong to it
`channel`   numbered frames: each is delivered once and in order, over any number of links
`handshake` how two ends agree on which frames are missing, for each way in which a link can begin
`messages`  the four kinds of JSON-RPC messages, read strictly
`failures`  gridkit's errors as JSON-RPC errors, and back
`values`    references, tensors and Python's literals in params and results
`schemas`   what each method takes, by direction and profile (`plain`, `v1`); `results`: what it gives

There are two profiles. `plain` is JSON-RPC as afnio's client speaks it: one message a WebSocket text frame, tensors as
nested lists, neither handshake nor numbers. `gridkit.v1` (the WebSocket's subprotocol) has all of the above.
"""
