"""`python -m runspend.cli`."""

from runspend.cli import main

main()
