"""Two gloo processes against one: the same loss, the same gradient, the same memories, for every method.

Float64, with fixed and with live batch norm, so that what is compared is the algebra of gathering and averaging.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from types import MethodType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import parameters
from architectures import BACKBONES
from architectures.resnet import ResNet
from train_baseline import Baseline
from train_bier import BIER
from train_dac import DivideAndConquer
from train_diva import DiVA
from train_sndl import SNDL
from utilities.batch import Batch
from utilities.errors import RunFailure
from utilities.flags.settings import Settings
from utilities.inference import whole_split
from utilities.parallel import distributed
from utilities.parallel.batch_norm import synchronise
from utilities.training.loss_window import GRADIENT_NORM, LossWindow


class InBatch(Baseline):
    """The baseline with a loss of whole batches, which no miner looks at."""


class Classified(Baseline):
    """The baseline with a loss that has weights of its own."""


KINDS = (Baseline, InBatch, Classified, DiVA, DivideAndConquer, BIER, SNDL)
WORLD, GLOBAL, N, L = 2, 12, 48, 5
SIDE = 32  # pixels
SMALL = ("--arch", "resnet18", "--sz_embedding", "16", "--num_samples_per_class", "3")
BATCH_NORM = {"frozen": "yes", "live": "no"}
OF_TIMM = [  # convolutions whose batch norm has an activation in it, and a transformer
    (Baseline, "live", "timm/test_efficientnet"),
    (DiVA, "live", "timm/test_efficientnet"),
    (SNDL, "live", "timm/test_vit"),
]
QUEUE = 2 * GLOBAL  # keys; its flag counts in --batch_size, which is that of one process


@BACKBONES.register("first_stage")
class FirstStage(ResNet):
    """ResNet18 up to its first stage: all that a test of the algebra needs."""

    arch = "resnet18"

    def __init__(self, **options):
        super().__init__(**options)
        self.features = 64
        self.net.layer2 = self.net.layer3 = self.net.layer4 = nn.Identity()
        for block in self.net.layer1:
            nn.init.ones_(block.bn2.weight)  # it starts at 0, which would hide the gradient of all before it


def split():
    generator = np.random.default_rng(3)
    labels = generator.random((N, L)) < 0.15
    labels[np.arange(N), np.arange(N) % L] = True
    return SimpleNamespace(bands=("R", "G", "B"), labels=labels)


def build(kind, batch_size, batch_norm, arch="first_stage"):
    extra = {
        DivideAndConquer: ["--dac_nb_clusters", "2"],
        DiVA: ["--diva_moco_n_key_batches", str(QUEUE // batch_size)],
        InBatch: ["--baseline_loss", "batch_nca"],
        Classified: ["--baseline_loss", "classifier"],
    }
    argv = [*SMALL, "--freeze_batch_norm", BATCH_NORM[batch_norm], "--batch_size", str(batch_size)]
    parsed = parameters.parse(kind.name, argv + extra.get(kind, []))
    settings = Settings({**parsed, "arch": arch, "image_size": SIDE})
    method = kind(settings, split()).double().train()
    if kind is DivideAndConquer:
        method.drawn_from = [0]
    if kind is DiVA:
        earlier = torch.randn(GLOBAL, 4, generator=torch.Generator().manual_seed(7))
        method.contrast.enqueue(nn.functional.normalize(earlier), torch.arange(GLOBAL))
    return method


def keys_in_groups(self, images, generator=None):
    """What `MomentumEncoder` computes on WORLD processes under shuffled batch norm: each normalises its own share."""
    if generator is None:
        return self.network(images)
    permutation = torch.randperm(len(images), generator=generator)
    groups = [self.network(images[rows]) for rows in permutation.chunk(WORLD)]
    return {name: torch.cat([group[name] for group in groups])[permutation.argsort()] for name in groups[0]}


def alone(kind, *case):
    """Terms, gradients and state of one process with the whole batch."""
    method = build(kind, GLOBAL, *case)
    if kind is DiVA:
        method.key_network.forward = torch.no_grad()(MethodType(keys_in_groups, method.key_network))
    return (*one_step(method, method, slice(None)), method.state_dict())


def batch(part):
    generator = torch.Generator().manual_seed(5)
    rows = torch.randperm(N, generator=generator)[:GLOBAL]
    images = torch.randn(GLOBAL, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    second = torch.randn(GLOBAL, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    labels = torch.from_numpy(split().labels)[rows]
    return Batch(images[part], labels[part], rows[part], second[part])


def one_step(method, model, part):
    """Gradients by name and loss terms of one forward and backward; then what follows the step."""
    terms = model(batch(part))
    torch.stack(list(terms.values())).sum().backward()
    method.after_step()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return {name: float(value.detach()) for name, value in terms.items()}, gradients


def largest_difference(one, other):
    names = set(one) | set(other)
    zero = torch.zeros(())
    return max(float((one.get(n, zero) - other.get(n, zero)).abs().max()) for n in names)


def compared(state):
    """Floating-point tensors that all ranks hold alike: not the statistics of keys, which no rank ever reads."""
    own = ("key_network.network.backbone", "running_")
    return {
        name: value.double()
        for name, value in state.items()
        if value.dtype.is_floating_point and not all(part in name for part in own)
    }


def differences(kind, *case, rank, expected):
    """Between this rank's step with its share of the batch and the expected one."""
    expected_terms, expected_gradients, expected_state = expected
    method = build(kind, GLOBAL // WORLD, *case)
    synchronise(method.network, torch.device("cpu"))
    model = distributed.data_parallel(method, torch.device("cpu"), find_unused=method.unused_parameters)
    terms, gradients = one_step(method, model, slice(rank * GLOBAL // WORLD, (rank + 1) * GLOBAL // WORLD))
    mean = {}
    for name, value in terms.items():
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        mean[name] = float(total) / WORLD
    state = method.state_dict()
    return {
        "same_names": state.keys() == expected_state.keys(),
        "terms": max(abs(mean[n] - expected_terms[n]) for n in expected_terms),
        "gradient": largest_difference(gradients, expected_gradients),
        "largest_gradient": max(float(g.abs().max()) for g in expected_gradients.values()),
        "state": largest_difference(compared(state), compared(expected_state)),
    }


def batch_norm_of_uneven_shares(rank):
    """Largest difference of outputs, gradients and statistics: 2 and 5 images against one process with 7."""
    generator = torch.Generator().manual_seed(1)
    images, weights = (torch.randn(7, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    images = (3 * images + 10).requires_grad_()
    share = slice(0, 2) if rank == 0 else slice(2, 7)
    whole, shared = nn.BatchNorm2d(3).double(), nn.Sequential(nn.BatchNorm2d(3).double())
    synchronise(shared, torch.device("cpu"))
    own = images.detach()[share].contiguous(memory_format=torch.channels_last).requires_grad_()
    outputs = {}
    for norm, x, w in ((whole, images, weights), (shared, own, weights[share])):
        outputs[norm] = norm(x)
        (outputs[norm] * w).sum().backward()
    for parameter in shared.parameters():
        dist.all_reduce(parameter.grad)
    pairs = [(outputs[whole][share], outputs[shared]), (images.grad[share], own.grad)]
    pairs += [(a.grad, b.grad) for a, b in zip(whole.parameters(), shared.parameters(), strict=True)]
    pairs += list(zip(whole.buffers(), shared.buffers(), strict=True))
    pairs.append((whole.eval()(images)[share], shared.eval()(own)))
    return max(float((a - b).abs().max()) for a, b in pairs)


def batch_norm_of_bfloat16(rank):
    """Largest difference between outputs and gradients of bfloat16 images and of the same ones in float32."""
    images, slopes = torch.randn(2, 4, 8, 16, 16, generator=torch.Generator().manual_seed(rank)).bfloat16()
    found = []
    for x in (images.clone(), images.float()):
        norm = nn.Sequential(nn.BatchNorm2d(8))
        synchronise(norm, torch.device("cpu"))
        output = norm(x.requires_grad_())
        (output.float() * slopes).sum().backward()
        found.append((output.dtype, output.float(), norm[0].running_var, norm[0].weight.grad / 100, x.grad.float()))
    assert found[0][0] == torch.bfloat16
    return max(float((a - b).abs().max()) for a, b in zip(found[0][1:], found[1][1:], strict=True))


def logged(rank):
    """Losses of three steps as each rank reads them, saved after the second of them or not."""
    losses = []
    for saves in (False, True):
        window = LossWindow()
        for step in range(3):
            values = {"own": torch.tensor(rank + step / 3), "gathered": torch.tensor(0.1)}
            window.add(0, step, 4, values, {GRADIENT_NORM: torch.tensor(1.0)}, [0.1])
            if saves and step == 1:
                window.share()
                box = [window.state()]
                dist.broadcast_object_list(box, 0)  # as all ranks read what rank 0 wrote
                window = LossWindow()
                window.load(box[0], torch.device("cpu"))
        losses.append(window.read(Path("run"))["losses"])
    return losses


def first_epoch(rank):
    """Batches and sums of the state after what two methods make of all images, which rank 0 does for all.

    Embeddings that differ by rank, as no run has them, show that the others take over what it made.
    """
    made = {}
    for kind, width, flags in (
        (DivideAndConquer, 16, ("--dac_nb_clusters", "2", "--backend", "torch")),
        (BIER, 64, ("--bier_prefit_steps", "2")),
    ):
        settings = parameters.parse(kind.name, [*SMALL, "--batch_size", str(GLOBAL // WORLD), *flags])
        method = kind(Settings({**settings, "arch": "first_stage"}), split())
        rows = nn.functional.normalize(torch.randn(N, width, generator=torch.Generator().manual_seed(rank)))
        method.embed_training_set = lambda embed=None, rows=rows: rows
        batches = np.asarray(method.epoch_batches(0)).tolist()
        sums = {name: float(tensor.double().sum()) for name, tensor in method.state_dict().items()}
        made[kind.__name__] = [batches, sums, getattr(method, "drawn_from", None)]
    return made


def embedded(rank):
    """What either rank holds after it embedded rows 0, 2, ... of 11, or 1, 3, ..., and where rank 0 has none."""
    values = torch.arange(22.0).reshape(11, 2)
    whole_split._GATHERED_ROWS = 4
    found = []
    for own in (torch.arange(rank, 11, WORLD), torch.arange(11 if rank else 0)):
        batches = [Batch(values[part], torch.zeros(0), part) for part in own.split(3)]
        rows, numbers = whole_split.embed_split(lambda images: images, batches, 11)
        found.append(torch.equal(rows, values) and numbers.tolist() == list(range(11)))
    return found


def title(kind, *rest):
    return " ".join([kind.__name__, *rest])


def has_timm():
    return find_spec("timm") is not None


def worker(rank, folder):
    torch.set_num_threads(1)
    cases = [(kind, batch_norm) for kind in KINDS for batch_norm in BATCH_NORM] + OF_TIMM * has_timm()
    for number, case in enumerate(cases):  # before there is a process group; each rank does its half of this
        if number % WORLD == rank:
            torch.save(alone(*case), Path(folder) / f"{number}.pt")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    dist.barrier()
    found = {"uneven": batch_norm_of_uneven_shares(rank), "bfloat16": batch_norm_of_bfloat16(rank)}
    found |= {"logged": logged(rank), "first epoch": first_epoch(rank), "embedded": embedded(rank)}
    for number, case in enumerate(cases):
        expected = torch.load(Path(folder) / f"{number}.pt", weights_only=True)
        found[title(*case)] = differences(*case, rank=rank, expected=expected)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(worker, (str(folder),), nprocs=WORLD)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


@pytest.mark.parametrize("batch_norm", BATCH_NORM)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_two_processes_equal_one_with_the_whole_batch(found, kind, batch_norm):
    assert_equal(found, title(kind, batch_norm))


@pytest.mark.skipif(not has_timm(), reason="needs timm")
@pytest.mark.parametrize("case", OF_TIMM, ids=lambda case: title(*case))
def test_networks_of_timm_are_one_over_the_ranks(found, case):
    assert_equal(found, title(*case))


def assert_equal(found, case):
    for on_rank in found:
        difference = on_rank[case]
        assert difference["same_names"], "a checkpoint fits any number of processes"
        assert difference["largest_gradient"] > 1e-3, "nothing would be compared"
        assert difference["terms"] < 1e-6
        assert difference["gradient"] < 1e-6
        assert difference["state"] < 1e-6, "queues, memories, key networks and running statistics"


def test_logged_losses_are_means_over_the_ranks_whether_saved_between_or_not(found):
    for on_rank in found:
        whole, resumed = on_rank["logged"]
        assert whole == resumed
        assert whole["own"] == pytest.approx(0.5 + 1 / 3)
        assert whole["gathered"] == pytest.approx(0.1)


def test_every_rank_has_the_embeddings_of_all_in_order(found):
    assert [on_rank["embedded"] for on_rank in found] == [[True, True]] * WORLD


def test_clusters_and_pre_fitted_layers_are_those_of_rank_0(found):
    ours, theirs = (on_rank["first epoch"] for on_rank in found)
    assert ours.keys() == {"DivideAndConquer", "BIER"}
    assert ours == theirs
    assert len(set(ours["DivideAndConquer"][2])) == 2, "both slices are trained"


def test_synchronised_batch_norm_is_that_of_the_whole_batch(found):
    for on_rank in found:
        assert on_rank["uneven"] < 1e-12
        assert on_rank["bfloat16"] < 0.04, "a few units in the last place of values up to 4; statistics are float32"


def test_one_process_keeps_the_batch_norm_of_torch():
    module = nn.Sequential(nn.BatchNorm2d(3))
    synchronise(module, torch.device("cpu"))
    assert type(module[0]) is nn.BatchNorm2d


def test_helpers_are_valid_without_a_process_group():
    rows = torch.randn(3, 2, requires_grad=True)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.gather_rows(rows) is rows
    assert torch.equal(distributed.gather_uneven(rows), rows)
    assert distributed.broadcast_object("x") == "x"


@pytest.mark.parametrize("gather", [distributed.gather_rows, distributed.gather_uneven])
def test_ranks_exchange_rows_in_one_memory_order(gather, monkeypatch):
    """A backend may copy bytes from rank to rank; gloo would hide a difference of strides."""
    sent = []

    def all_gather(parts, own):
        sent.extend([*parts, own])
        for part in parts:
            part.copy_(own)

    monkeypatch.setattr(distributed.dist, "all_gather", all_gather)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    images = torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert torch.equal(gather(images), torch.cat([images, images]))
    assert all(tensor.is_contiguous() for tensor in sent)


def test_the_gradient_that_is_summed_over_ranks_is_a_copy(monkeypatch):
    """Autograd may hand the same tensor to another branch."""
    monkeypatch.setattr(distributed.dist, "all_gather", lambda parts, own: [part.copy_(own) for part in parts])
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda tensor: tensor.mul_(2))
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    rows = torch.rand(3, 4, requires_grad=True)
    gradient = torch.ones(6, 4)
    distributed.gather_rows(rows).backward(gradient)
    assert torch.equal(gradient, torch.ones(6, 4))
    assert torch.equal(rows.grad, torch.full((3, 4), 2.0))


def test_a_rank_that_lacks_images_of_its_batch_stops_before_the_others_wait(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    distributed.check_share(6, 12)
    with pytest.raises(RunFailure, match="rank 0 has 5 images of a batch of 12 for 2 processes: --skip_broken_images"):
        distributed.check_share(5, 12)
