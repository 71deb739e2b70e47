"""`runspend mcp`: the Model Context Protocol, with which assistants ask about costs. Every tool reads, and none writes.

`tools.py` asks and answers, `answers.py` has the forms of answers, `harmless.py` makes names harmless, and `server.py` speaks the protocol.
"""
