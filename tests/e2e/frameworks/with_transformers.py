"""Transformers: a Trainer that reports to MLflow inside a run, in parallel processes, and in an Optuna search."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys

import mlflow
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

SENTENCES = [{"input_ids": torch.randint(0, 50, (8,)), "labels": number % 2} for number in range(16)]


def make_model() -> BertForSequenceClassification:
    return BertForSequenceClassification(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )


def make_trainer(name: str, rate: float = 0.01) -> Trainer:
    arguments = TrainingArguments(
        output_dir=name.replace(" ", "-"),
        run_name=name,
        report_to="mlflow",
        learning_rate=rate,
        max_steps=4,
        logging_steps=2,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    return Trainer(model_init=make_model, args=arguments, train_dataset=SENTENCES, eval_dataset=SENTENCES)


def train_in_process(given: tuple[str, float]) -> None:
    parent, rate = given
    os.environ["MLFLOW_TAGS"] = json.dumps({"mlflow.parentRunId": parent})
    make_trainer(f"rate {rate}", rate).train()


def main(uri: str) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.environ["MLFLOW_EXPERIMENT_NAME"] = "transformers"
    mlflow.set_experiment("transformers")
    with mlflow.start_run(run_name="sweep") as sweep:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.map(train_in_process, [(sweep.info.run_id, rate) for rate in (0.1, 0.01)], chunksize=1)
        os.environ["MLFLOW_NESTED_RUN"] = "true"
        make_trainer("nested").train()

    os.environ["MLFLOW_EXPERIMENT_NAME"] = "transformers search"
    os.environ["MLFLOW_NESTED_RUN"] = "false"
    make_trainer("search").hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 0.001, 0.1)}, backend="optuna", n_trials=2
    )


if __name__ == "__main__":
    main(sys.argv[1])
