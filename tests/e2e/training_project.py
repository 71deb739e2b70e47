"""A typical training project without any mention of Runspend: autologging, a sweep in parallel processes, and a resumed run.

python training_project.py TRACKING_URI
"""

from __future__ import annotations

import multiprocessing
import sys

import mlflow


def run_trial(given: tuple[str, str, int]) -> None:
    uri, parent, number = given
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("project")
    with mlflow.start_run(run_name=f"trial {number}", nested=True, parent_run_id=parent):
        mlflow.log_metric("loss", number)


def main(uri: str) -> None:
    import numpy as np  # not at the top: the processes of the sweep import this file and do not need them
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("project")
    mlflow.sklearn.autolog(log_models=False, log_datasets=False, silent=True)
    values = np.random.default_rng(0).normal(size=(40, 3))
    GridSearchCV(LogisticRegression(), {"C": [0.1, 1, 10]}).fit(values, (values[:, 0] > 0).astype(int))
    with mlflow.start_run(run_name="sweep") as sweep, multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(run_trial, [(uri, sweep.info.run_id, number) for number in range(4)])
    with mlflow.start_run(run_name="stopped") as stopped:
        mlflow.log_metric("step", 1)
    with mlflow.start_run(run_id=stopped.info.run_id):
        mlflow.log_metric("step", 2)


if __name__ == "__main__":
    main(sys.argv[1])
