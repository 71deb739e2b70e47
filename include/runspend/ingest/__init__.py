"""The inputs: runs from MLflow, artifact sizes from stores, bills from clouds."""
