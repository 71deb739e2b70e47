"""Ray Tune: parallel trials in Ray's own worker processes, with `setup_mlflow` in the trial, and with the callback in the driver.

The callback creates its runs in the driver and does not use MLflow's plug-ins. This script shows both lines that help: one in the trial, and
one in the driver.
"""

from __future__ import annotations

import sys
import tempfile
import time

import mlflow
import ray
from mlflow.tracking.context.registry import resolve_tags
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback, setup_mlflow

import runspend


def train_with_runs(config: dict) -> None:
    """Train a trial that creates its own run, a child of the sweep's, with a nested run for its evaluation."""
    setup_mlflow({"rate": config["rate"]}, config["uri"], experiment_name="ray setup", tags={"mlflow.parentRunId": config["parent"]})
    loss = train(config["rate"])
    mlflow.log_metric("loss", loss)
    with mlflow.start_run(run_name="evaluation", nested=True, experiment_id=mlflow.active_run().info.experiment_id):
        mlflow.log_param("rate", config["rate"])
        mlflow.log_metric("loss", loss)
    mlflow.end_run()  # Ray ends its workers before MLflow can end the run
    tune.report({"loss": loss})


def train_without_runs(config: dict) -> None:
    """Train a trial whose run the driver created, and add the worker's machine to it."""
    mlflow.set_tracking_uri(config["uri"])
    name = tune.get_context().get_trial_name()
    [run] = mlflow.search_runs(experiment_names=["ray callback"], filter_string=f"run_name = '{name}'", output_format="list")
    for _ in range(20):  # on a busy machine, the metadata service may answer too late, and a later call has its answer
        if runspend.identify(run.info.run_id):
            break
        time.sleep(0.5)
    tune.report({"loss": train(config["rate"])})


def train_alone(config: dict) -> None:
    tune.report({"loss": train(config["rate"])})


def train(rate: float) -> float:
    time.sleep(0.5)
    return (rate - 0.1) ** 2


def tune_in_parallel(trainable: object, space: dict, folder: str, callbacks: list) -> None:
    results = tune.Tuner(
        trainable,
        param_space={"rate": tune.grid_search([0.1, 0.2]), **space},
        tune_config=tune.TuneConfig(max_concurrent_trials=2),
        run_config=tune.RunConfig(storage_path=folder, callbacks=callbacks, verbose=0),
    ).fit()
    assert not results.errors, results.errors


def main(uri: str) -> None:
    mlflow.set_tracking_uri(uri)
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # the path must be short, because it contains Ray's sockets
        ray.init(address="local", num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, _temp_dir=folder)
        with mlflow.start_run(run_name="sweep", experiment_id=mlflow.create_experiment("ray setup")) as sweep:
            tune_in_parallel(train_with_runs, {"uri": uri, "parent": sweep.info.run_id}, f"{folder}/1", [])
        callback = MLflowLoggerCallback(uri, experiment_name="ray callback")
        tune_in_parallel(train_without_runs, {"uri": uri}, f"{folder}/2", [callback])
        callback = MLflowLoggerCallback(uri, experiment_name="ray callback with tags", tags=resolve_tags())
        tune_in_parallel(train_alone, {}, f"{folder}/3", [callback])
        ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
