"""`runspend mcp`: the Model Context Protocol, with which assistants ask about costs. Every tool reads, and none writes.

`tools.py` asks and answers, `answers.py` has the shapes, `harmless.py` takes the harm out of names, `server.py` speaks the protocol.
"""
