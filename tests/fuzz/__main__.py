"""`python -m tests.fuzz`: see `search.py`."""

import logging
import os
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.dont_write_bytecode = True
os.environ.update({"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "NO_PROXY": "*", "COLUMNS": "120"})
for name in [n for n in os.environ if n.startswith(("AWS_", "AZURE_", "GOOGLE_", "MLFLOW_TRACKING", "RUNSPEND_", "PG"))]:
    del os.environ[name]
warnings.simplefilter("ignore")
logging.disable()

from tests.fuzz.search import main  # noqa: E402 (after the environment)

if __name__ == "__main__":
    raise SystemExit(main())
