"""One loop for every method: epochs, precision, ranks, validation, when to save; `run` writes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from utilities import seeding, signals
from utilities.batch import Batch, Feed
from utilities.errors import RunFailure, UserError
from utilities.flags.settings import Settings
from utilities.neighbours import search as neighbours
from utilities.parallel import distributed
from utilities.parallel.batch_norm import synchronise
from utilities.runs import checkpoint
from utilities.runs import folder as run_folder
from utilities.training import optim, payload, precision
from utilities.training.allocator import keep_freed_memory
from utilities.training.loss_window import GRADIENT_NORM, LossWindow
from utilities.training.method import Method
from utilities.training.pace import Pace
from utilities.training.progress import Progress
from utilities.training.run import Run, say
from utilities.training.validation import SELECTED_BY, Validation, in_words


class Data(Protocol):
    @property
    def train(self) -> Feed: ...

    @property
    def val(self) -> Feed: ...

    @property
    def test(self) -> Feed | None:
        """With --eval_test alone."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """Data set, label names, bands, fingerprints, image sizes: plain values."""
        ...

    def of_features(self, network: Any, args: Settings, parent: Path) -> Data:
        """The same splits as features of the network's backbone, kept in --cache_path or `parent`."""
        ...


@contextlib.contextmanager
def session(args: Settings) -> Iterator[torch.device]:
    """The process group around a run; gives the device of this process.

    A --backend that is not there is refused here: its first search comes after hours of training or embedding.
    A rank that fails leaves at once, without the orderly end that would wait for the others: torchrun sees it go and
    ends them.
    """
    device = distributed.start(args["device"])
    if args["backend"] != "auto":
        neighbours.resolve_backend(args["backend"], 1)
    torch.backends.cudnn.benchmark = device.type == "cuda"
    precision.full_convolutions()
    if args["threads"]:
        torch.set_num_threads(args["threads"])
    if device.type == "cpu":
        keep_freed_memory()
    yield device
    distributed.stop()


def train(method: Method, data: Data, args: Settings, device: torch.device) -> Path:
    """Train `method` to `--nb_epochs`, from its checkpoint where `--load_from_checkpoint` names one.

    Returns the run folder. Every rank calls this; rank 0 alone writes.
    """
    trainer = Trainer(method, data, args, device)
    try:
        trainer.fit()
    except KeyboardInterrupt as interruption:
        interruption.args = (f"training goes on with --load_from_checkpoint {trainer.folder}",)
        raise
    except Exception as failure:
        trainer.discard_unbegun(failure)
        raise
    finally:
        trainer.close()
    return trainer.folder


class Trainer:
    """The state of a run. `epoch` and `batch` say where the next step is, `step` how many were done, `unvalidated`
    that a validation comes before it.
    """

    def __init__(self, method: Method, data: Data, args: Settings, device: torch.device) -> None:
        self.method = method.to(device)
        if args["channels_last"]:
            method.to(memory_format=torch.channels_last)  # every 4-d tensor, a momentum encoder's included
        synchronise(method.network, device)  # a momentum encoder keeps the statistics of its (shuffled) share
        if args["compile"]:
            method.network.backbone.compile()
        self.data, self.args, self.device = data, args, device
        self.trained = [p for p in method.parameters() if p.requires_grad]
        self.precision = precision.resolve(args["precision"], device, method.network)
        self.validation = Validation(method, args, device, self.precision)
        self.optimizer = optim.build(method.param_groups(args), args)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.model: nn.Module = method
        if distributed.is_active() and self.trained:
            self.model = distributed.data_parallel(method, device, find_unused=method.unused_parameters)
        method.embed_training_set = self.embed_training_set
        self.epoch = self.batch = self.step = 0
        self.best, self.best_epoch = -1.0, 0
        self.progress = Progress(args["nb_epochs"], args["eval_epoch"])
        self.unvalidated = False
        self.window, self.pace = LossWindow(), Pace()
        self.run = Run(args, device, data.description, self.precision)
        self.folder = self.run.folder
        try:
            kept = self.run.load()
            if kept is not None:
                payload.restore(self, kept)
            if args["stored_views"]:
                method.eval()
                self.data = data.of_features(method.network, args, run_folder.save_path(self.folder))
                say(f"heads train from stored features: {args['stored_views']} views of each image, computed once")
            self.run.open_log(step=self.step, validated=not self.unvalidated)
        except BaseException as failure:
            self.discard_unbegun(failure)
            self.close()
            raise

    # -- the loop ------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        epochs = self.args["nb_epochs"]
        if not epochs and self.best < 0:  # a run without training: the network as it starts
            self.unvalidated = True
        if self.epoch >= epochs and not self.unvalidated:
            whole = "is complete: --head none trains nothing"
            more = f"has its {self.epoch} epochs; give a larger --nb_epochs to go on"
            say(f"{self.folder} {whole if self.args['head'] == 'none' else more}")
            return
        if self.run.resumed:
            self.run.record_flags(self.epoch)
        while self.epoch < epochs or self.unvalidated:
            if not self.unvalidated:
                with signals.held_back(self.args["save_on_signal"]):
                    self.train_epoch()
                    self.unvalidated = self.epoch % self.args["eval_epoch"] == 0 or self.epoch == epochs
                    if self.run.is_save_due() or self.is_to_stop():
                        self.save()  # a kill in the validation of a whole archive costs no epoch
            if self.unvalidated:
                if not self.run.is_saved():
                    self.save()  # a best.pt without it is of a run whose last.pt was taken away
                self.validate()
                self.unvalidated = False
                self.save()

    def train_epoch(self) -> None:
        """From `self.batch` to the end of the epoch."""
        self.method.epoch = self.epoch
        batches = self.method.epoch_batches(self.epoch)
        if not self.step:
            self.method.check_batches(batches, self.data.train.dataset.labels)
        self.model.train()
        feed = self.data.train.training(
            batches,
            seed=self.args["random_seed"],
            epoch=self.epoch,
            start=self.batch,
            second_view=self.method.second_view,
        )
        bar = tqdm(
            feed, f"epoch {self.epoch + 1}/{self.args['nb_epochs']}", len(batches), initial=self.batch, leave=False,
            disable=None if distributed.is_main() else True,
        )  # fmt: skip
        self.window.restart_clock()
        if self.epoch == self.args["small_epochs"]:
            self.pace.restart()
        self.pace.pause()
        self.progress.begin(self.step, whole=self.batch == 0)
        for number, batch in bar:
            self.method.batch = number
            self.train_step(batch, self.epoch + number / len(batches))
            self.batch = number + 1
            last = self.batch == len(batches)
            if self.step % self.args["log_every_steps"] == 0 and not last:
                bar.set_postfix(self.log_losses())
            if self.args["save_every_steps"] and self.step % self.args["save_every_steps"] == 0 and not last:
                self.save()
            if not last and self.is_to_stop():
                self.save()
                say(f"saved at epoch {self.epoch + 1}, step {self.step}")
                signals.stop()
        if not self.step:
            raise UserError("the first epoch held no batch; lower --batch_size or check the data set")
        self.epoch, self.batch = self.epoch + 1, 0
        self.log_losses()
        say(self.progress.line(self.epoch, self.best_so_far()))

    def best_so_far(self) -> str:
        """In words; "" before the first validation."""
        at = f" (epoch {self.best_epoch})" if self.best_epoch else ""
        return f"best {SELECTED_BY} {self.best:.4f}{at}" if self.best >= 0 else ""

    def is_to_stop(self) -> bool:
        """Whether a signal came to some rank, and is to be followed once `last.pt` is written; every rank asks."""
        return self.args["save_on_signal"] and distributed.any_rank(signals.noted())

    def train_step(self, batch: Batch, progress: float) -> None:
        """Forward, backward, clip, step. Nothing here waits for the device."""
        rates = optim.set_rates(self.optimizer, self.base_rates, optim.factor(progress, self.args))
        self.method.step = self.step
        seeding.seed_layers(self.device, self.args["random_seed"], "layers", self.step, distributed.rank())
        with precision.autocast(self.precision, self.device):
            terms = self.model(batch)
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        gradients = [p.grad for p in self.method.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.args["clip_gradient"]:
            nn.utils.clip_grads_with_norm_(self.trained, self.args["clip_gradient"], norm)
        self.optimizer.step()
        self.method.after_step()
        self.step += 1
        observed = {**self.method.observed, GRADIENT_NORM: norm}
        images = len(batch.indices) * distributed.world_size()
        self.window.add(self.epoch, self.step, images, terms, observed, rates)
        if self.device.type == "cpu":
            self.window.check(self.folder)
            if note := self.pace.step():
                say(note)

    # -- validation ----------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Score the val split; keep the network when its SELECTED_BY is the best so far. With --eval_test, score the
        test split too, by which nothing is chosen."""
        self.model.eval()
        scores, record = self.validation.measure(self.data.val)
        self.run.log({"epoch": self.epoch, "step": self.step, "split": "val", **record})
        self.progress.validation = record["seconds"]
        is_best = scores[SELECTED_BY] > self.best
        say(
            f"epoch {self.epoch}  val  {in_words(scores)}"
            + ("  the best so far" if is_best else f"  {self.best_so_far()}")
        )
        if is_best:
            self.best_epoch = self.epoch
            self.run.save(checkpoint.BEST, payload.best(self, scores))
        if self.data.test is not None:
            scores_of_test, record = self.validation.measure(self.data.test)
            self.run.log({"epoch": self.epoch, "step": self.step, "split": "test", **record})
            self.progress.validation += record["seconds"]
            say(f"epoch {self.epoch}  test  {in_words(scores_of_test)}")
        self.run.draw_curves(
            last=self.epoch >= self.args["nb_epochs"],
            best=self.best_epoch,
            selected_by=SELECTED_BY,
            below_zero=self.method.below_zero,
        )
        self.best = max(self.best, scores[SELECTED_BY])
        distributed.barrier()

    def embed_training_set(self, embed: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(N, D) float32 embeddings of the training split on the CPU, in row order, on every rank.

        embed  images -> (B, D) instead of the method's own. Rows of skipped images are 0.
        """
        training = self.model.training
        self.model.eval()
        embeddings, rows = self.validation.embed(self.data.train, embed)
        self.model.train(training)
        whole = torch.zeros(len(self.data.train.dataset), embeddings.shape[1])
        whole[rows] = embeddings
        return whole

    # -- what is written -----------------------------------------------------------------------------------------

    def log_losses(self) -> dict[str, float]:
        """Write the mean of every loss term since the last line; returns them."""
        if not self.window.count:
            return {}
        record = self.window.read(self.folder)
        if self.data.train.skipped:
            record["skipped_images"] = len(self.data.train.skipped)
        self.run.log(record)
        self.progress.add(record)
        return record["losses"]

    def save(self) -> None:
        """`last.pt`: all that a resumed run needs."""
        self.window.check(self.folder)
        self.window.share()
        if distributed.is_main():
            self.run.save(checkpoint.LAST, payload.last(self))

    def discard_unbegun(self, failure: BaseException) -> None:
        """After a failure: what has no step yet is no run, and nothing to go on with."""
        if not self.step and self.run.discard() and isinstance(failure, RunFailure):
            failure.begun = False

    def close(self) -> None:
        for feed in (self.data.train, self.data.val, self.data.test):
            if feed is not None:
                feed.close()
        self.run.close()
