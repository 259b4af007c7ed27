"""The command line of the central service: one module a command group.

`root` knows the groups and loads a group's module only when it is called, so that `gatehouse --help` is fast.
A command parses its flags, asks the running server through `remote` and shows the answer through `printing`;
rules live elsewhere. The agent's command line is `agent.cli`.
"""
