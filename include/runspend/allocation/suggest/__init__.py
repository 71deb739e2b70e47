"""Proposes pools from the hours of runs and machines: evidence, matching, proposals, and writing them to `runspend.yaml`."""

from runspend.allocation.suggest.proposals import Proposal, Proposals, as_records, header_lines, proposals_yaml, propose_pools
from runspend.allocation.suggest.settings_file import add_pools

__all__ = ["Proposal", "Proposals", "add_pools", "as_records", "header_lines", "proposals_yaml", "propose_pools"]
