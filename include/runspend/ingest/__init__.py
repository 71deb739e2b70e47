"""What comes in: runs from MLflow, artifact sizes from stores, bills from clouds."""
