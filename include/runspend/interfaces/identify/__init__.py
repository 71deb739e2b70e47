"""Describe where this process runs, as tags of an MLflow run: its machine, job, region, GPUs and cores.

`context_provider.py` is the MLflow plug-in, and `tagging.py` tags a run that already exists. Both use `identity.py`, which uses
`environment.py` (variables and files), `metadata_services.py` (the cloud's services, over the network) and `hardware.py` (GPUs and limits).

This package runs inside training jobs. It needs only the standard library and Python 3.10, and its failures must never reach the job.
"""
