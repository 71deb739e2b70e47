"""Optuna: trials in threads, in processes, and with its MLflow callback."""

from __future__ import annotations

import multiprocessing
import sys
import time

import mlflow
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_integration import MLflowCallback


class Objective:
    """Trains for a moment. Each trial is a child run of the sweep."""

    def __init__(self, parent: str) -> None:
        self.parent = parent

    def __call__(self, trial: optuna.Trial) -> float:
        with mlflow.start_run(run_name=f"trial {trial.number}", nested=True, parent_run_id=self.parent):
            rate = trial.suggest_float("rate", 0.01, 1, log=True)
            mlflow.log_param("rate", rate)
            loss = train(rate)
            mlflow.log_metric("loss", loss)
            return loss


def train(rate: float) -> float:
    time.sleep(0.3)
    return (rate - 0.1) ** 2


def optimize_in_process(given: tuple[str, str, str]) -> None:
    uri, parent, file = given
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("optuna processes")
    optuna.load_study(study_name="shared", storage=JournalStorage(JournalFileBackend(file))).optimize(Objective(parent), n_trials=2)


def main(uri: str) -> None:
    mlflow.set_tracking_uri(uri)

    mlflow.set_experiment("optuna threads")
    with mlflow.start_run(run_name="sweep") as sweep:
        optuna.create_study().optimize(Objective(sweep.info.run_id), n_trials=4, n_jobs=2)

    mlflow.set_experiment("optuna processes")
    file = "journal.log"
    optuna.create_study(study_name="shared", storage=JournalStorage(JournalFileBackend(file)))
    with mlflow.start_run(run_name="sweep") as sweep, multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(optimize_in_process, [(uri, sweep.info.run_id, file)] * 2, chunksize=1)

    # The callback creates a run after each trial, in an experiment with the study's name.
    callback = MLflowCallback(uri, metric_name="loss")
    study = optuna.create_study(study_name="optuna callback")
    study.optimize(lambda trial: train(trial.suggest_float("rate", 0.01, 1)), n_trials=4, n_jobs=2, callbacks=[callback])

    # The decorator creates the run before the trial.
    callback = MLflowCallback(uri, metric_name="loss")
    study = optuna.create_study(study_name="optuna decorator")
    tracked = callback.track_in_mlflow()(lambda trial: train(trial.suggest_float("rate", 0.01, 1)))
    study.optimize(tracked, n_trials=4, n_jobs=2, callbacks=[callback])


if __name__ == "__main__":
    main(sys.argv[1])
