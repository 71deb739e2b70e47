"""Run the command line with `python -m runspend.interfaces.cli`."""

from runspend.interfaces.cli import main

main()
