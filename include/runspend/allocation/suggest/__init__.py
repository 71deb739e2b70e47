"""Pools that the hours of runs and machines speak for: evidence, matching, proposals, and how they get into `runspend.yaml`."""

from runspend.allocation.suggest.proposals import Proposal, Proposals, as_records, header_lines, proposals_yaml, propose_pools
from runspend.allocation.suggest.settings_file import add_pools

__all__ = ["Proposal", "Proposals", "add_pools", "as_records", "header_lines", "proposals_yaml", "propose_pools"]
