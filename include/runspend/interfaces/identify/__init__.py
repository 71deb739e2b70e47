"""Describes where this process runs, as tags of an MLflow run: machine, job, place, GPUs and cores.

`context_provider.py` is the MLflow plug-in, `tagging.py` tags a run that exists already. Both ask `identity.py`, which asks
`environment.py` (variables and files), `metadata_services.py` (the cloud's, over the network) and `hardware.py` (GPUs and limits).

This package goes into training jobs. It needs only the standard library, runs on Python 3.10, and no failure of it may reach the job.
"""
