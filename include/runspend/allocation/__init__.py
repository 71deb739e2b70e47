"""Allocates costs: the models of the ledger, their inputs, their order, and the explanation of a result."""
