"""`runspend mcp`: answers questions of assistants about costs over the Model Context Protocol. All tools only read.

`tools.py` has the tools, `answers.py` the models of their arguments and answers, `harmless.py` makes names harmless, and `server.py`
serves the protocol.
"""
