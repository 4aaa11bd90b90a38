"""The loop against a literal one, on a toy network: steps, rates, clipping, validation, best.pt, saving, embedding."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import parameters
from utilities.batch import Batch
from utilities.errors import RunFailure, UserError
from utilities.flags.settings import Settings
from utilities.measures.formulae import Relevance
from utilities.measures.search_and_measure import evaluate
from utilities.report import curves
from utilities.runs import checkpoint
from utilities.runs.logger import read_metrics
from utilities.training import engine, optim
from utilities.training.engine import Trainer
from utilities.training.method import Method
from utilities.training.progress import Progress, duration
from utilities.training.validation import Validation

IMAGES, CLASSES, EPOCHS = 12, 3, 3
LR, BACKBONE_LR, CLIP, MOMENTUM = 0.2, 0.05, 0.5, 0.9
FLAGS = (
    "--optim", "sgd", "--momentum", MOMENTUM, "--weight_decay", 0, "--lr", LR, "--backbone_lr", BACKBONE_LR,
    "--scheduler", "onecycle", "--clip_gradient", CLIP, "--nb_epochs", EPOCHS, "--eval_epoch", 2, "--eval_metric",
    "recall@1", "--precision", "fp32", "--log_every_steps", 1, "--backend", "torch", "--device", "cpu",
    "--eval_batch_size", 5,
)  # fmt: skip


class Network(nn.Module):
    """Four numbers -> two of unit length, through a batch norm, which tells training from evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
        self.head = nn.Linear(5, 2)

    def forward(self, images):
        return self.head(self.backbone(images))

    def embed(self, images):
        return F.normalize(self(images))

    def description(self):
        return {"arch": "toy"}


class Toy(Method):
    """Two terms, and a memory that takes in the weights after every step."""

    name = "toy"

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.network = Network()
        self.register_buffer("memory", torch.zeros(EPOCHS * 3, 2, 5))

    def forward(self, batch):
        outputs = self.network(batch.images)
        return {"square": (outputs - batch.labels[:, :2].float()).square().mean(), "sum": 3 * outputs.sum(1).mean()}

    def after_step(self):
        self.memory[self.step] = self.network.head.weight.detach()

    def epoch_batches(self, epoch):
        order = np.random.default_rng(epoch).permutation(IMAGES)
        return [order[:4], order[4:8], order[8:]]


class Labelled:
    labels = np.eye(CLASSES, dtype=bool)[np.arange(IMAGES) % CLASSES]

    def __len__(self) -> int:
        return IMAGES


class Feed:
    """Images that are a function of their row; evaluation gives them in another order, as ranks would."""

    def __init__(self) -> None:
        self.images = torch.randn(IMAGES, 4, generator=torch.Generator().manual_seed(1))
        self.dataset = Labelled()
        self.skipped: set[int] = set()

    def batch(self, rows):
        rows = torch.as_tensor(np.asarray(rows))
        return Batch(self.images[rows], torch.from_numpy(self.dataset.labels)[rows], rows)

    def training(self, batches, *, seed, epoch, start, second_view):
        yield from ((number, self.batch(batches[number])) for number in range(start, len(batches)))

    def evaluation(self, rows, batch_size):
        left = [row for row in rows[::-1] if row not in self.skipped]
        yield from (self.batch(left[i : i + batch_size]) for i in range(0, len(left), batch_size))

    def close(self) -> None:
        pass


def trainer_settings(tmp_path, *flags, **changed):
    given = ["--save_path", tmp_path, *FLAGS, *flags]
    return Settings({**parameters.parse("baseline", [str(word) for word in given]), **changed})


def toy_data():
    description = {"dataset": "toy", "label_names": ["a", "b", "c"], "bands": [], "train_fingerprint": "1"}
    feed = Feed()
    return SimpleNamespace(train=feed, val=feed, test=None, description=description)


def trainer_of(tmp_path, *flags, **changed):
    return Trainer(Toy(), toy_data(), trainer_settings(tmp_path, *flags, **changed), torch.device("cpu"))


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """They are a matter of tests/test_figures.py, and of seconds."""
    monkeypatch.setattr(curves, "curves", lambda *given: None)


@pytest.fixture
def saves(monkeypatch):
    """(name, step) of every checkpoint that is written."""
    written = []
    save = checkpoint.save

    def noted(folder, name, payload):
        written.append((name, payload["step"]))
        save(folder, name, payload)

    monkeypatch.setattr(checkpoint, "save", noted)
    return written


def literal(method, feed):
    """The same training by hand: sgd with Nesterov momentum, one rate a group, the gradient cut to a norm of CLIP."""
    velocity = {name: torch.zeros_like(p) for name, p in method.named_parameters()}
    for epoch in range(EPOCHS):
        batches = method.epoch_batches(epoch)
        for number, rows in enumerate(batches):
            gradients = torch.autograd.grad(sum(method(feed.batch(rows)).values()), list(method.parameters()))
            norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
            factor = optim.factor(epoch + number / len(batches), {"scheduler": "onecycle", "nb_epochs": EPOCHS})
            for (name, p), gradient in zip(method.named_parameters(), gradients, strict=True):
                gradient = gradient * min(1, CLIP / norm)
                velocity[name] = MOMENTUM * velocity[name] + gradient
                rate = BACKBONE_LR if "backbone" in name else LR
                p.data -= factor * rate * (gradient + MOMENTUM * velocity[name])
            method.memory[3 * epoch + number] = method.network.head.weight.detach()
            yield norm, factor


def test_training_is_the_literal_loop(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.fit()
    trainer.close()
    twin = Toy()
    steps = list(literal(twin.train(), Feed()))
    assert min(norm for norm, _ in steps) > CLIP, "every gradient is clipped"
    for name, value in trainer.method.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name], rtol=1e-4, atol=1e-5, msg=name)
    lines = [r for r in read_metrics(trainer.folder) if r["split"] == "train"]
    assert [r["step"] for r in lines] == list(range(1, 10))
    for line, (norm, factor) in zip(lines, steps, strict=True):
        assert line["observed"]["gradient_norm"] == pytest.approx(norm, rel=1e-3)
        assert line["learning_rates"] == pytest.approx([factor * BACKBONE_LR, factor * LR])
        assert line["losses"]["total"] == pytest.approx(line["losses"]["square"] + line["losses"]["sum"], rel=1e-5)


@pytest.mark.parametrize(("every", "at"), [(0, [3, 6, 6, 9, 9]), (2, [2, 3, 4, 6, 6, 8, 9, 9])])
def test_last_is_saved_after_every_epoch_and_validation_and_every_so_many_steps(tmp_path, saves, every, at):
    trainer = trainer_of(tmp_path, "--save_every_steps", every)
    trainer.fit()
    trainer.close()
    assert [step for name, step in saves if name == checkpoint.LAST] == at


@pytest.mark.parametrize("epoch", [2, 3])
@pytest.mark.parametrize("when", ["validate", "record_scored"])
def test_a_kill_in_a_validation_costs_no_epoch(tmp_path, monkeypatch, epoch, when):
    whole = trainer_of(tmp_path / "whole")
    whole.fit()
    whole.close()
    trainer = trainer_of(tmp_path)
    validate = Trainer.validate

    def killed(self):
        if self.epoch == epoch:
            if when == "record_scored":  # metrics.jsonl and best.pt are of the validation, last.pt is not yet
                validate(self)
            raise KeyboardInterrupt
        validate(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "validate", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer.fit()
    trainer.close()
    resumed = trainer_of(tmp_path, load_from_checkpoint=str(trainer.folder))
    assert (resumed.epoch, resumed.unvalidated) == (epoch, True)
    epochs = []
    train_epoch = resumed.train_epoch
    resumed.train_epoch = lambda: epochs.append(resumed.epoch) or train_epoch()
    resumed.fit()
    resumed.close()
    assert epochs == list(range(epoch, EPOCHS)), "trained anew"
    kept = [[(r["step"], r.get("scores"), r.get("losses")) for r in read_metrics(f)]
            for f in (whole.folder, trainer.folder)]  # fmt: skip
    assert kept[0] == kept[1]
    ours, straight = (checkpoint.load(folder) for folder in (trainer.folder, whole.folder))
    assert (ours["best"], ours["unvalidated"]) == (straight["best"], False)
    for name, value in straight["method"].items():
        assert torch.equal(ours["method"][name], value), name


@pytest.mark.parametrize(("processes", "batch", "goes_on_at"), [(1, 2, 2), (2, 1, 2), (3, 0, 0)])
def test_a_run_goes_on_in_mid_epoch_with_another_number_of_processes(tmp_path, capsys, processes, batch, goes_on_at):
    """A batch of N processes holds N times the images."""
    trainer = trainer_of(tmp_path, "--save_every_steps", 2)
    trainer.fit()
    trainer.close()
    payload = checkpoint.load(trainer.folder) | {"epoch": 1, "batch": batch, "step": 3, "world_size": processes}
    checkpoint.save(trainer.folder, checkpoint.LAST, payload)
    resumed = trainer_of(tmp_path, load_from_checkpoint=str(trainer.folder))
    assert (resumed.epoch, resumed.batch) == (1, goes_on_at)
    assert ("batches, and so the numbers from here on, differ" in capsys.readouterr().out) == (processes != 1)
    resumed.fit()
    resumed.close()
    assert resumed.step == 3 + 6 - goes_on_at


def test_layers_that_draw_draw_the_same_after_a_resumption(tmp_path):
    """Dropout draws from the global generators, which no checkpoint holds."""

    def dropping(folder, **changed):
        trainer = trainer_of(folder, "--save_every_steps", 2, **changed)
        trainer.method.network.backbone.append(nn.Dropout(0.5))
        return trainer

    def stop(self):
        if self.step == 4:  # the second of three of its epoch, as last.pt was written
            raise KeyboardInterrupt

    whole, stopped = dropping(tmp_path / "whole"), dropping(tmp_path)
    whole.fit()
    stopped.method.after_step = lambda: (Toy.after_step(stopped.method), stop(stopped))
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    stopped.close()
    torch.manual_seed(123)  # another process
    resumed = dropping(tmp_path, load_from_checkpoint=str(stopped.folder))
    assert resumed.step == 4
    resumed.fit()
    whole.close()
    resumed.close()
    for name, value in whole.method.state_dict().items():
        assert torch.equal(resumed.method.state_dict()[name], value), name
    assert not torch.equal(*(whole.method.train()(Feed().batch(range(6)))["sum"] for _ in range(2))), "it does draw"


@pytest.mark.parametrize("flags", [("--nb_epochs", 0), ("--frozen", "--stored_views", 1)])
def test_last_is_there_before_the_first_best(tmp_path, monkeypatch, flags):
    """Of runs that do not save after each epoch as well, so that a best.pt alone tells that last.pt was taken away."""
    seen = []

    def noted(folder, name, payload):
        seen.append(name)
        save(folder, name, payload)

    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", noted)
    data = SimpleNamespace(**vars(toy_data()))
    data.of_features = lambda *given: data
    folder = engine.train(Toy(), data, trainer_settings(tmp_path, *flags), torch.device("cpu"))
    assert seen[:3] == ["last.pt", "best.pt", "last.pt"]
    (folder / "last.pt").unlink()
    assert trainer_settings(tmp_path, "--load_from_checkpoint", folder), "last.previous.pt is there"
    (folder / "last.previous.pt").unlink()
    before = (folder / "best.pt").read_bytes(), (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"has a best\.pt and no last\.pt, .*: put that back or start a new run"):
        parameters.parse("baseline", ["--load_from_checkpoint", str(folder)])
    assert before == ((folder / "best.pt").read_bytes(), (folder / "metrics.jsonl").read_bytes())


def test_best_is_the_network_of_the_best_validation_across_resumptions(tmp_path, saves, monkeypatch):
    scripted = iter([0.5, 0.9, 0.6, 0.9, 0.95])
    monkeypatch.setattr(Validation, "score", lambda *given: ({"recall@1": next(scripted)}, {}))
    first = trainer_of(tmp_path, "--eval_epoch", 1, nb_epochs=2)
    first.fit()
    first.close()
    second = trainer_of(tmp_path, "--eval_epoch", 1, nb_epochs=5, load_from_checkpoint=str(first.folder))
    second.method.memory = torch.zeros(15, 2, 5)  # of a longer run
    second.fit()
    second.close()
    assert [step for name, step in saves if name == checkpoint.BEST] == [3, 6, 15], "no equal and no worse one"
    best = checkpoint.load(first.folder, checkpoint.BEST)
    assert (best["epoch"], best["scores"]) == (5, {"recall@1": 0.95})
    assert torch.equal(best["network"]["head.weight"], second.method.network.head.weight)


def test_what_there_is_to_note_about_scores_is_said_once(tmp_path, capsys):
    trainer = trainer_of(tmp_path, "--eval_epoch", 1, "--eval_metric", "recall@99")
    trainer.fit()
    trainer.close()
    assert capsys.readouterr().out.count("note: K = 99 is cut to 11: a query finds no more images") == 1


def test_validation_comes_every_so_many_epochs_and_last_and_by_the_network_at_rest(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path)
    modes = []
    embed = trainer.method.network.embed
    monkeypatch.setattr(trainer.method.network, "embed", lambda x: modes.append(trainer.model.training) or embed(x))
    trainer.fit()
    trainer.close()
    lines = [r for r in read_metrics(trainer.folder) if r["split"] == "val"]
    assert [r["epoch"] for r in lines] == [2, 3]
    assert set(modes) == {False}
    feed = trainer.data.val
    trainer.model.eval()
    with torch.inference_mode():
        rows = trainer.method.network.embed(feed.images)
    found = evaluate(
        rows, torch.from_numpy(feed.dataset.labels), metrics=["recall@1"], ks=(1,),
        relevance=Relevance("subset", 0.5), backend="torch",
    )  # fmt: skip
    assert lines[-1]["scores"]["recall@1"] == pytest.approx(found.scores.scores["recall@1"])


def test_the_training_set_is_embedded_row_by_row_at_rest(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.train_epoch()  # running statistics differ from those of a batch
    trainer.data.train.skipped.add(7)
    found = trainer.method.embed_training_set()
    features = trainer.method.embed_training_set(trainer.method.network.backbone)
    assert trainer.model.training
    trainer.model.eval()
    with torch.inference_mode():
        for row, image in enumerate(trainer.data.train.images):
            wanted = trainer.method.network.embed(image[None])[0] if row != 7 else torch.zeros(2)
            torch.testing.assert_close(found[row], wanted)
            if row != 7:
                torch.testing.assert_close(features[row], trainer.method.network.backbone(image[None])[0])
    trainer.close()


def test_a_start_that_fails_before_its_first_step_leaves_its_name_to_the_next(tmp_path, monkeypatch, capsys):
    def unreadable(*given, **options):
        raise UserError("cannot read the image")
        yield

    settings = trainer_settings(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Feed, "training", unreadable)
        with pytest.raises(UserError, match="cannot read the image"):
            engine.train(Toy(), toy_data(), settings, torch.device("cpu"))
    assert list((tmp_path / "Demo").iterdir()) == []
    folder = engine.train(Toy(), toy_data(), settings, torch.device("cpu"))
    assert folder == tmp_path / "Demo" / "baseline"
    assert "exists" not in capsys.readouterr().out


def test_what_could_not_be_saved_or_logged_says_how_to_go_on_where_something_is_left(tmp_path, monkeypatch):
    """A new run that failed before its first step has no folder any more: to go on with that would fail again."""

    def full(path, **options):
        raise OSError(28, "No space left on device", str(path))

    folder = tmp_path / "Demo" / "baseline"

    def said(*flags, **changed) -> str:
        settings = trainer_settings(tmp_path, *flags, **changed)
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "replacing", full)
            with pytest.raises(RunFailure) as failure:
                engine.train(Toy(), toy_data(), settings, torch.device("cpu"))
        return str(failure.value)

    untrained = said("--nb_epochs", 0)
    assert not folder.exists()
    assert untrained.endswith("Free some space, and start the run again")
    trained = said()
    assert folder.exists()
    assert trained.endswith(f"Free some space, and go on with --load_from_checkpoint {folder}")
    monkeypatch.setattr(engine.LossWindow, "add", lambda *given: 1 / 0)
    resumed = trainer_settings(tmp_path, load_from_checkpoint=str(folder))
    with pytest.raises(ZeroDivisionError):
        engine.train(Toy(), toy_data(), resumed, torch.device("cpu"))
    assert folder.exists(), "it is not this start's to take away"


def test_a_failure_after_the_first_step_leaves_what_there_is(tmp_path, monkeypatch):
    def diverged(*given):
        raise RunFailure("not finite")

    monkeypatch.setattr(engine.LossWindow, "check", diverged)
    with pytest.raises(RunFailure):
        engine.train(Toy(), toy_data(), trainer_settings(tmp_path), torch.device("cpu"))
    assert (tmp_path / "Demo" / "baseline" / "args.json").exists()


def test_every_epoch_has_a_line_with_losses_speed_rate_and_the_best_so_far(tmp_path, capsys, monkeypatch):
    scripted = iter([0.5, 0.25])
    monkeypatch.setattr(Validation, "score", lambda *given: ({"recall@1": next(scripted)}, {}))
    trainer = trainer_of(tmp_path)
    trainer.fit()
    trainer.close()
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split("  ")[0] for line in said] == ["epoch 1/3", "epoch 2/3", "epoch 2", "epoch 3/3", "epoch 3"]
    first, second, validated, last, validated_last = said
    losses = [r["losses"] for r in read_metrics(trainer.folder) if r["split"] == "train" and r["epoch"] == 1]
    for name in ("total", "square", "sum"):
        assert f"{name} {sum(line[name] for line in losses) / 3:.4g}" in first
    assert first.index("total") < first.index("square")
    assert re.search(r"\d+ images/s  lr [\d.e-]+ [\d.e-]+  \d+ s left$", first)
    assert "best" not in first + second
    assert validated.endswith("val  recall@1 0.5000  the best so far")
    assert last.endswith("best recall@1 0.5000 (epoch 2)")
    assert "left" not in last
    assert validated_last.endswith("recall@1 0.2500  best recall@1 0.5000 (epoch 2)")
    assert checkpoint.load(trainer.folder)["best_epoch"] == 2


def test_the_time_left_is_that_of_epochs_and_validations_to_come(monkeypatch):
    clock = iter([0.0, 0.0, 100.0, 100.0, 400.0])
    monkeypatch.setattr("utilities.training.progress.time.perf_counter", lambda: next(clock))
    progress = Progress(10, 4)
    progress.begin(0, whole=True)
    assert "15 min left" in progress.line(1, "")  # 9 epochs of 100 s
    progress.validation = 60.0
    progress.begin(3, whole=True)
    assert "30 min left" in progress.line(2, "")  # 8 of 200 s, 3 validations: after 4, 8 and 10
    assert [duration(s) for s in (7.4, 119, 7100, 11_100)] == ["7 s", "2 min", "118 min", "3 h 05 min"]
