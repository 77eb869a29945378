"""The command line: parses arguments and passes them on.

Each command imports what it needs when it runs, so that the quick ones start fast. The agent itself runs in a process
without click and the commands: see `start`.
"""
