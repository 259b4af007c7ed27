"""Finding out who is on the other end of the socket: processes, anchored, and the facts about them.

`process` is the one door to /proc and pidfds; `unix` turns what is found there into selectors; `digests`
hashes executables; `sessions` keeps watching while a connection is open.
"""
