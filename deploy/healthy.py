"""A container's health check: whether an address answers, and whether Airflow calls one of its parts healthy.

Usage: python healthy.py URL [dag_processor | scheduler | triggerer]
"""

from __future__ import annotations

import json
import sys
import urllib.request


def main(url: str, part: str | None = None) -> int:
    """Return 0 if healthy. Airflow's API also answers 200 if a part is not healthy, so a named part's state is read from the answer."""
    with urllib.request.urlopen(url, timeout=25) as answer:
        return 0 if part is None or json.load(answer)[part]["status"] == "healthy" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
