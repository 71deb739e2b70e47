"""Who pays for what: the models of the ledger, their inputs, their order, and what explains a result."""
