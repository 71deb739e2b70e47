"""A container's health check: does this address answer, and does Airflow call one of its parts healthy?

python healthy.py URL [dag_processor | scheduler | triggerer]
"""

from __future__ import annotations

import json
import sys
import urllib.request


def main(url: str, part: str | None = None) -> int:
    """0 if healthy. Airflow's API answers 200 also when a part is not, so the answer is read where one is named."""
    with urllib.request.urlopen(url, timeout=25) as answer:
        return 0 if part is None or json.load(answer)[part]["status"] == "healthy" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
