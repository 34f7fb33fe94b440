"""JSON-RPC both ways at ``/ws/v0/rpc/``: what lives on the node between a client's links. From below:

`link`      one WebSocket: what waits is written, what comes is handed over
`plain`     how messages become frames for clients that know no more than JSON-RPC (afnio's)
`v1`        the same for `gridkit.v1`, whose channel outlives its links
`works`     requests of the client that are being worked on: heartbeats, progress, cancelling
`calls`     requests to the client that wait for its answer
`session`   one client: it takes messages in order, answers them, and asks
`sessions`  all clients of the node: who has which, how many, and for how long without a link
`methods`   what can be asked of a session
`functions` functions of the node's own

Remote tensors live in a process of each session that has some (`gridkit.runner.tensors`):

`runners`          the processes of all sessions: how many, and who has to give one back
`tensors`          one session's: asked in order, told to the client, ended when it takes too long
`methods_tensors`  asked by clients of `gridkit.v1`, whose words the process speaks itself
`plain_tensors`    what is known of them for plain clients
`methods_plain`    asked by these

Nothing that comes from a client waits for anything that a client has to do: messages are taken in order, at once;
whatever takes time is a task of its own, so that it may ask the client, which may ask again.
"""
