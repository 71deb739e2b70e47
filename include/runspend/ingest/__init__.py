"""The inputs: runs from MLflow, artifact sizes from artifact stores, and bills from clouds."""
