"""Lightning: its MLflow logger in parallel processes and in a job of two ranks, and MLflow's autologging."""

from __future__ import annotations

import multiprocessing
import os
import sys

import mlflow
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger
from torch.utils.data import DataLoader, TensorDataset

import runspend


class Line(LightningModule):
    """A model that learns a line."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(3, 1)

    def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
        values, wanted = batch
        loss = torch.nn.functional.mse_loss(self.layer(values), wanted)
        self.log("loss", loss)
        return loss

    def on_fit_start(self) -> None:
        """Add this rank's machine to the run. Only rank 0 knows the run."""
        if self.trainer.world_size > 1:
            run_id = self.trainer.strategy.broadcast(self.logger.run_id)
            assert run_id
            runspend.identify(run_id)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.rate)


def train(rate: float, logger: MLFlowLogger | bool, **options: object) -> None:
    torch.manual_seed(0)
    values = torch.randn(32, 3)
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    trainer = Trainer(max_epochs=2, accelerator="cpu", logger=logger, **quiet, **options)
    trainer.fit(Line(rate), DataLoader(TensorDataset(values, values.sum(1, keepdim=True)), batch_size=8))


def train_in_process(given: tuple[str, str, float]) -> None:
    uri, parent, rate = given
    train(rate, MLFlowLogger("lightning", f"rate {rate}", uri, tags={"mlflow.parentRunId": parent}))


def main(uri: str) -> None:
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("lightning")
    with mlflow.start_run(run_name="sweep") as sweep, multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(train_in_process, [(uri, sweep.info.run_id, rate) for rate in (0.1, 0.01)], chunksize=1)
    os.environ["USE_LIBUV"] = "0"  # Debian's PyTorch does not include libuv
    train(0.1, MLFlowLogger("lightning ranks", tracking_uri=uri), devices=2, strategy="ddp_fork")

    mlflow.set_experiment("lightning autolog")
    mlflow.pytorch.autolog(log_models=False, silent=True)
    train(0.1, False)


if __name__ == "__main__":
    main(sys.argv[1])
