"""The four papers' methods as modules: what a forward pass gives, whom its gradients reach, what survives a restart."""

import io
import itertools
from difflib import SequenceMatcher
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

import parameters
from architectures.embedding import EmbeddingNetwork
from batchminer.random_distance import RandomDistance
from criteria import of_batches
from criteria.binomial import learner_weights
from train_baseline import Baseline
from train_bier import BIER
from train_dac import DivideAndConquer
from train_diva import HEADS, DiVA
from train_sndl import SNDL
from utilities import seeding
from utilities.batch import Batch
from utilities.errors import UserError
from utilities.flags import flag as flags
from utilities.tensors.labels import PairRule
from utilities.training import optim

ROOT = Path(__file__).parent.parent
METHODS = {kind.name: kind for kind in (DiVA, DivideAndConquer, BIER, SNDL)}
EVERY = METHODS | {"baseline": Baseline}
SMALL = ("--arch", "resnet18", "--sz_embedding", "16", "--batch_size", "12", "--num_samples_per_class", "3")
N, L = 72, 5


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def split():
    """As much of a training split as a method looks at: one to three of five labels an image."""
    generator = np.random.default_rng(3)
    labels = generator.random((N, L)) < 0.15
    labels[np.arange(N), np.arange(N) % L] = True
    return SimpleNamespace(bands=("R", "G", "B"), labels=labels)


def build(name, split, *flags):
    method = EVERY[name](parameters.parse(name, [*SMALL, *map(str, flags)]), split)
    method.embed_training_set = lambda embed=None: embedded(method, embed or method.embed)
    return method.train()


def images_of(rows):
    """An image that is a function of its row alone, 32 x 32."""
    generator = torch.Generator().manual_seed(1)
    everything = torch.randn(N, 3, 4, 4, generator=generator)
    return F.interpolate(everything[rows], scale_factor=8)


def embedded(method, embed):
    method.eval()
    with torch.no_grad():
        rows = embed(images_of(torch.arange(N)))
    method.train()
    return rows


def batch_of(method, split, number=0, epoch=0):
    method.epoch, method.batch = epoch, number
    rows = torch.as_tensor(np.asarray(method.epoch_batches(epoch)[number]))
    images = images_of(rows)
    return Batch(images, torch.from_numpy(split.labels)[rows], rows, images.flip(3))


def step(method, batch, lr=0.05):
    """A plain gradient step, as the engine makes one."""
    terms = method(batch)
    method.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter -= lr * parameter.grad
    method.after_step()
    method.step += 1
    return terms


def moved_by(terms, method, names):
    """Names of parameters that get a gradient other than 0 from the sum of the named terms."""
    method.zero_grad(set_to_none=True)
    torch.stack([terms[name] for name in names]).sum().backward(retain_graph=True)
    return {name for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}


# -- what all have in common -----------------------------------------------------------------------------------------

TERMS = {
    "diva": {"disc", "shared", "intra", "nce", "nce_to_disc", "shared_to_disc", "intra_to_disc"},
    "dac": {"slice0", "slice1"},
    "bier": {"learner1", "learner2", "learner3", "adversarial", "norms"},
    "sndl": {"nca", "bce"},
}
FEW_CLUSTERS = {"dac": ("--dac_nb_clusters", 2)}


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


def test_forward_gives_named_finite_scalars_that_move_every_trained_parameter(name, split):
    method = build(name, split, *FEW_CLUSTERS.get(name, ()))
    seen, reached = set(), set()
    for number in range(len(method.epoch_batches(0))):
        terms = step(method, batch_of(method, split, number))
        assert all(term.shape == () and term.dtype == torch.float32 and term.isfinite() for term in terms.values())
        seen |= terms.keys()
        reached |= {n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert seen == TERMS[name]
    trained = {n for n, p in method.named_parameters() if p.requires_grad}
    assert reached == trained


def test_embeddings_are_unit_rows_of_the_asked_width(name, split):
    method = build(name, split, *FEW_CLUSTERS.get(name, ())).eval()
    rows = method.embed(images_of(torch.arange(5)))
    assert rows.shape == (5, 16)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(5))


def test_every_trained_parameter_is_in_one_group(name, split):
    method = build(name, split)
    groups = method.param_groups(parameters.parse(name, SMALL))
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters() if p.requires_grad)


def test_own_rates_reach_their_group(split):
    def rates(name, *flags):
        args = parameters.parse(name, [*SMALL, "--lr", "0.5", "--backbone_lr", "0.25", *flags])
        return {group["name"]: group["lr"] for group in EVERY[name](args, split).param_groups(args)}

    assert rates("diva") == {"backbone": 0.25, "heads": 0.5, "regressors": 0.25}
    assert rates("diva", "--diva_adversarial_lr", "0.125")["regressors"] == 0.125
    assert rates("diva", "--margin_learn_beta", "yes", "--criterion_lr", "0.0625")["criterion"] == 0.0625
    assert rates("bier", "--bier_adversarial_lr", "0.125") == {"backbone": 0.25, "heads": 0.5, "regressors": 0.125}
    assert rates("sndl") == {"backbone": 0.25, "heads": 0.5, "classifier": 0.5}
    assert rates("dac") == {"backbone": 0.25, "heads": 0.5}
    assert rates("baseline", "--baseline_loss", "classifier") == {"backbone": 0.25, "heads": 0.5, "classifier": 0.5}


def test_weight_decay_spares_boundaries_and_what_has_a_penalty_of_its_own(split):
    def decays(name):
        args = parameters.parse(name, [*SMALL, "--weight_decay", "0.25"])
        optimizer = optim.build(build(name, split).param_groups(args), args)
        return {group["name"]: group["weight_decay"] for group in optimizer.param_groups}

    assert decays("baseline") == {"backbone": 0.25, "heads": 0.25, "criterion": 0}
    assert decays("diva") == {"backbone": 0.25, "heads": 0.25, "regressors": 0}
    assert decays("bier") == {"backbone": 0.25, "heads": 0.25, "regressors": 0}


def test_a_frozen_backbone_stays_as_it_is_and_is_in_no_group(split):
    method = build("baseline", split, "--frozen")
    backbone = method.network.backbone
    assert not any(p.requires_grad for p in backbone.parameters())
    norms = [module for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 20
    assert not any(norm.training for norm in norms)
    groups = method.param_groups(parameters.parse("baseline", [*SMALL, "--frozen"]))
    assert [group["name"] for group in groups] == ["heads", "criterion"]


def test_a_method_restored_from_its_file_goes_on_as_if_nothing_had_happened(name, split):
    method = build(name, split)
    for number in range(2):
        step(method, batch_of(method, split, number))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    restored = build(name, split, "--random_seed", 9)
    restored.seed = method.seed
    restored.load_state_dict(torch.load(file, weights_only=True))
    restored.step = method.step
    batch_of(restored, split, 2)  # as the engine does, ask for the epoch's batches
    batch = batch_of(method, split, 2)
    once, again = (step(m, batch) for m in (method, restored))
    assert again == once
    for key, tensor in method.state_dict().items():
        assert torch.equal(tensor, restored.state_dict()[key]), key


def test_the_initial_network_can_be_rebuilt_from_seed_and_description(name, split):
    network = build(name, split).network
    seeding.seed_initialisation(0)
    rebuilt = EmbeddingNetwork(**network.description())
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, rebuilt.state_dict()[key]), key


def test_batches_are_the_same_whenever_they_are_asked_for(name, split):
    method = build(name, split)
    first = np.asarray(method.epoch_batches(0))
    assert np.array_equal(first, method.epoch_batches(0))
    assert all(len(set(batch.tolist())) == 12 for batch in first), "no image twice in a batch"


def test_batches_without_pairs_are_reported(split):
    method = build("baseline", split)
    alone = np.eye(12, dtype=bool)
    same = np.ones((24, 3), dtype=bool)
    with pytest.raises(UserError, match="1 of 1 batches hold no positive pair"):
        method.check_batches([np.arange(12)], alone)
    with pytest.raises(UserError, match=r"no negative pair .* jaccard \(--label_relation, .* raise --batch_size"):
        method.check_batches([np.arange(12), np.arange(12, 24)], same)
    mixed = np.concatenate([alone, alone])
    with pytest.warns(UserWarning, match="1 of 2 batches hold no positive pair"):
        method.check_batches([np.arange(12), np.r_[0:6, 12:18]], mixed)
    build("sndl", split).check_batches([np.arange(12)], alone)  # needs no pairs within a batch
    for loss, relation in (("multi_similarity", PairRule("jaccard", 0.75)), ("mulsupcon", None)):
        unmined = build("baseline", split, "--baseline_loss", loss, "--positive_threshold", 0.75)
        assert unmined.relation == relation
    with pytest.raises(UserError, match="1 of 1 batches hold no positive pair"):
        build("baseline", split, "--baseline_loss", "multi_similarity").check_batches([np.arange(12)], alone)


@pytest.mark.parametrize("loss", ["batch_nca", "smoothap", "mulsupcon"])
def test_batches_that_teach_a_loss_without_miner_nothing_are_reported(split, loss):
    """Where no gradient is left: nothing shared or, for graded losses, everything alike."""
    method = build("baseline", split, "--baseline_loss", loss)
    rows = F.normalize(torch.randn(12, 8, generator=torch.Generator().manual_seed(0)))
    labels = np.concatenate([np.eye(12, dtype=bool), np.repeat(np.eye(12, dtype=bool)[:4], 3, axis=0)])
    graded = loss != "mulsupcon"
    lacking = {"alone": np.eye(12, dtype=bool)} | ({"alike": np.ones((12, 3), bool)} if graded else {})
    for of_batch in lacking.values():
        embeddings = rows.clone().requires_grad_()
        method.criterion(embeddings, torch.from_numpy(of_batch), torch.arange(12)).backward()
        assert embeddings.grad.abs().max() < 1e-5
        what = f"--{loss}_weighting" if graded else "two images that share a label"
        with pytest.raises(UserError, match=f"1 of 1 batches hold no .*{what}; raise --batch_size"):
            method.check_batches([np.arange(12)], of_batch)
    with pytest.warns(UserWarning, match="1 of 2 batches hold no"):
        method.check_batches([np.arange(12), np.arange(12, 24)], labels)
    method.check_batches([np.arange(12, 24)], labels)


def test_few_triplets_without_a_common_label_are_reported(split):
    """Of the 12 images of the second batch all carry label 0 or 1, so that no three are pairwise without a common
    label; in the first, one of four labels each, every image finds two such others."""
    labels = np.zeros((24, 4), bool)
    labels[np.arange(12), np.arange(12) % 4] = True
    labels[np.arange(12, 24), np.arange(12) % 2] = labels[12:18, 2] = True
    method = build("diva", split)
    assert method.miners["shared"].expected(torch.from_numpy(labels[:12])) == 1
    method.check_batches([np.arange(12)], labels)
    with pytest.warns(UserWarning, match=r"triplets for 0\.0% of the images .*--diva_shared_miner random_distance"):
        method.check_batches([np.arange(12, 24)], labels)
    permuted = RandomDistance(relation=method.relation, lower_cutoff=0.5, upper_cutoff=1.4)
    assert permuted.advice([torch.from_numpy(labels[12:])]) == ""
    assert build("diva", split, "--diva_alpha_shared", 0).advice is None


@pytest.mark.parametrize("name", ["baseline", "dac", "diva"])
def test_batches_are_judged_by_the_relation_of_the_miner(split, name):
    """Images that share one label of four: none alike to `jaccard`, all related to `multilabel_semihard`."""
    little = np.zeros((12, 20), bool)
    little[:, 0] = little[6:, 1] = little[:6, 2] = True
    little[np.arange(12), np.arange(12) + 4] = True
    little[0] = np.eye(20)[3]
    strict = build(name, split, "--positive_threshold", 0.9)
    with pytest.raises(UserError, match="hold no positive pair"):
        strict.check_batches([np.arange(12)], little)
    shared = build(name, split, "--positive_threshold", 0.9, f"--{name}_batch_miner", "multilabel_semihard")
    shared.check_batches([np.arange(12)], little)


def test_a_batch_without_any_pair_costs_nothing_and_harms_nothing(split):
    for name in ("diva", "dac", "bier"):
        method = build(name, split)
        batch = batch_of(method, split)._replace(labels=torch.zeros(12, L, dtype=torch.bool))
        terms = step(method, batch)
        metric = {"diva": ["disc", "shared", "intra"], "dac": list(terms), "bier": ["learner1", "learner3"]}[name]
        assert all(terms[m] == 0 for m in metric)
        assert all(p.isfinite().all() for p in method.parameters())


# Every script has it, for --help in a moment; the paper's part is what is bounded.
EARLY_HELP = """from utilities.flags import early  # noqa: F401 - first: answers --help in a moment

# isort: split

"""


def test_scripts_share_no_scaffolding():
    """`diff` of two scripts shows methods: besides imports and main, no run of more than six equal lines."""
    bodies = {}
    for script in sorted(ROOT.glob("train_*.py")):
        text = script.read_text()
        body = text[text.index("\nclass ") : text.index("@main_guard")]
        bodies[script.name] = [line for line in body.splitlines() if line.strip()]
        assert len(text.replace(EARLY_HELP, "").splitlines()) <= 132, script.name
    for one, other in itertools.combinations(bodies, 2):
        blocks = SequenceMatcher(None, bodies[one], bodies[other], autojunk=False).get_matching_blocks()
        longest = max(blocks, key=lambda block: block.size)
        shared = bodies[one][longest.a : longest.a + longest.size]
        assert longest.size <= 6, f"{one} and {other} share\n" + "\n".join(shared)


# -- DiVA ------------------------------------------------------------------------------------------------------------


def test_diva_keys_start_as_a_copy_and_follow_by_momentum(split):
    method = build("diva", split, "--diva_moco_momentum", 0.75)
    own, keys = method.network.state_dict(), method.key_network.network.state_dict()
    assert own.keys() == keys.keys()
    assert all(torch.equal(own[key], keys[key]) for key in own)
    assert any("running_mean" in key for key in own), "batch-norm buffers are part of the copy"
    started = {key: tensor.clone() for key, tensor in own.items()}
    step(method, batch_of(method, split))
    for key, tensor in method.network.named_parameters():
        expected = 0.75 * started[key] + 0.25 * tensor
        torch.testing.assert_close(dict(method.key_network.network.named_parameters())[key], expected)


def test_diva_queue_takes_keys_of_second_views_in_after_the_step_and_carries_no_gradient(split):
    method = build("diva", split, "--freeze_batch_norm", "yes")
    batch = batch_of(method, split)
    keys = method.network(batch.second_view)["nce"].detach()  # of which the key network is a copy yet
    terms = method(batch)
    assert (method.contrast.queue_images == -1).all(), "nothing is written in forward"
    assert terms["nce"] == 0, "nothing to compare with yet"
    method.after_step()
    assert torch.equal(method.contrast.queue_images[:12], batch.indices)
    torch.testing.assert_close(method.contrast.queue[:12], keys)
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(12))
    terms = method(batch_of(method, split, 1))
    assert terms["nce"] > 0
    torch.stack(list(terms.values())).sum().backward()
    assert not method.contrast.queue.requires_grad
    assert all(p.grad is None and not p.requires_grad for p in method.key_network.parameters())


def test_diva_terms_reach_their_own_head_and_the_separation_both_sides(split):
    method = build("diva", split)
    step(method, batch_of(method, split))
    terms = method(batch_of(method, split, 1))
    for head in HEADS:
        heads = {n for n in moved_by(terms, method, [head]) if n.startswith("network.heads")}
        assert heads == {f"network.heads.{head}.weight", f"network.heads.{head}.bias"}
    moved = moved_by(terms, method, ["intra_to_disc"])
    assert {"network.heads.disc.weight", "network.heads.intra.weight", "network.backbone.net.conv1.weight"} <= moved
    assert not {"network.heads.shared.weight", "network.heads.nce.weight"} & moved
    assert {n.split(".")[2] for n in moved if n.startswith("separation")} == {"2"}


def test_diva_weights_and_flags_reach_their_target(split):
    method = build(
        "diva", split, "--diva_alpha_shared", 0, "--diva_alpha_ssl", 0, "--diva_adversarial_rho", 0, 7, 0,
        "--diva_head_weights", 4, 3, 2, 1, "--diva_moco_temperature", 0.5, "--diva_moco_n_key_batches", 2,
        "--diva_moco_buffers", "copy", "--diva_adversarial_hidden", 24, "--diva_moco_upper_cutoff", 1.1,
    )  # fmt: skip
    step(method, batch_of(method, split))
    terms = method(batch_of(method, split, 1))
    assert terms["shared"] == terms["nce"] == terms["nce_to_disc"] == terms["intra_to_disc"] == 0
    assert terms["shared_to_disc"] < 0
    assert method.network.head_weights == {"disc": 4, "shared": 3, "intra": 2, "nce": 1}
    assert method.contrast.temperature == 0.5
    assert method.contrast.upper_cutoff == 1.1
    assert len(method.contrast.queue) == 24
    assert method.key_network.buffers_rule == "copy"
    assert method.separation.regressors[0][0].out_features == 24


def test_diva_terms_are_weighted_by_their_alpha(split):
    def terms(*alphas):
        shared, intra, nce = alphas
        method = build(
            "diva", split, "--diva_alpha_shared", shared, "--diva_alpha_intra", intra, "--diva_alpha_nce", nce
        )
        step(method, batch_of(method, split), lr=0)  # fills the queue
        return method(batch_of(method, split, 1))

    plain, weighted = terms(1, 1, 1), terms(2, 3, 0.25)
    for term, alpha in {"disc": 1, "shared": 2, "intra": 3, "nce": 0.25, "nce_to_disc": 1}.items():
        assert plain[term] != 0
        torch.testing.assert_close(weighted[term], alpha * plain[term])


def test_diva_second_views_batch_norm_is_live_in_the_key_network(split):
    method = build("diva", split)
    before = method.key_network.network.backbone.net.bn1.running_mean.clone()
    method(batch_of(method, split))
    assert not torch.equal(before, method.key_network.network.backbone.net.bn1.running_mean)
    frozen = build("diva", split, "--freeze_batch_norm", "yes")
    frozen(batch_of(frozen, split))
    assert torch.equal(frozen.key_network.network.backbone.net.bn1.running_mean, torch.zeros(64))


def test_diva_queue_length(split):
    assert len(build("diva", split).contrast.queue) == N, "all that the training set holds, being less than 30 batches"
    with pytest.raises(UserError, match=r"--diva_moco_n_key_batches 7 .* 72 images .* at most 6"):
        build("diva", split, "--diva_moco_n_key_batches", 7)


def test_diva_warns_where_a_class_has_no_three_images(split):
    with pytest.warns(UserWarning, match="few triplets within a class"):
        build("diva", split, "--num_samples_per_class", 2)


@pytest.mark.parametrize("loss", of_batches())
def test_baseline_takes_batches_as_they_come_and_losses_of_whole_batches(split, loss):
    method = build("baseline", split, "--baseline_batches", "shuffled", "--baseline_loss", loss)
    rows = np.concatenate(method.epoch_batches(0))
    assert len(np.unique(rows)) == len(rows) == N // 12 * 12, "no row twice, unlike in class-balanced batches"
    ((name, value),) = step(method, batch_of(method, split)).items()
    assert name == loss
    assert value > 0
    assert all(p.grad.isfinite().all() for p in method.network.parameters() if p.grad is not None)


def test_baseline_takes_broken_classes_only_of_shuffled_batches(split):
    with pytest.raises(UserError, match="no multiple of --num_samples_per_class"):
        build("baseline", split, "--batch_size", 13)
    build("baseline", split, "--batch_size", 13, "--baseline_batches", "shuffled")


# -- divide and conquer ----------------------------------------------------------------------------------------------


def test_dac_gradients_are_exactly_zero_outside_the_active_slice(split):
    method = build("dac", split, "--dac_nb_clusters", 4, "--weight_decay", 0, "--margin_learn_beta", "yes")
    slices = set()
    for number in range(len(method.epoch_batches(0))):
        batch = batch_of(method, split, number)
        (name,) = step(method, batch)
        assert name == f"slice{method.clusters.assignment[batch.indices[0]]}"
        for slice_, head in method.network.heads.items():
            if slice_ == name:
                assert head.weight.grad.any()
            else:
                assert head.weight.grad is None
        learned = {f"slice{k}" for k, criterion in enumerate(method.of_slice) if criterion.beta.grad is not None}
        assert learned == {name}, "each slice has boundaries of its own"
        slices.add(name)
    assert len(slices) > 1


def test_dac_with_one_cluster_is_the_margin_baseline(split):
    flags = ("--margin_per_class", "yes", "--margin_learn_beta", "yes")
    dac = build("dac", split, "--dac_nb_clusters", 1, "--dac_batch_miner", "distance", *flags)
    baseline = build("baseline", split, "--baseline_batch_miner", "distance", *flags)
    state = {k.replace("slice0", "embedding"): v for k, v in dac.network.state_dict().items()}
    baseline.network.load_state_dict(state)
    for number in range(3):
        batch = batch_of(dac, split, number)
        (one,), (other,) = step(dac, batch).values(), step(baseline, batch).values()
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
        assert one > 0


def test_dac_clusters_are_made_every_t_epochs_and_survive_a_restart(split):
    flags = ("--sz_embedding", 18, "--dac_nb_clusters", 3, "--dac_recluster_every", 2, "--nb_epochs", 20)
    method = build("dac", split, *flags)
    made = []
    inner = method.clusters.divide
    method.clusters.divide = lambda *args, epoch, **options: (made.append(epoch), inner(*args, epoch=epoch, **options))
    for epoch in (0, 0, 1, 2, 2, 3, 5, 19):
        method.epoch_batches(epoch)
    assert made == [0, 2], "once in an epoch, every second epoch, none while fine-tuning"
    restored = build("dac", split, *flags)
    restored.load_state_dict(method.state_dict())
    restored.embed_training_set = None  # would fail if it were called
    for epoch in (2, 3):
        assert np.array_equal(restored.epoch_batches(epoch), method.epoch_batches(epoch))


def test_dac_slices_have_their_turn_by_size_though_clusters_are_smaller_than_a_batch(split):
    method = build("dac", split, "--dac_nb_clusters", 8, "--dac_recluster_every", 50)
    method.epoch_batches(0)
    sizes = [2, 3, 4, 5, 6, 7, 9, 36]
    method.clusters.assignment.copy_(torch.arange(8).repeat_interleave(torch.tensor(sizes))[torch.randperm(N)])
    turns, expected = np.zeros(8, int), np.zeros(8)
    own = method.clusters.assignment.numpy()
    for epoch in range(100):
        batches = np.asarray(method.epoch_batches(epoch))
        pools = method.clusters.drawn_from(12).numpy()
        assert np.bincount(pools)[np.unique(pools)].min() >= 12
        assert (pools[batches] == pools[batches[:, :1]]).all()
        turns += np.bincount(method.drawn_from, minlength=8)
        for pool in pools[batches[:, 0]]:
            expected += np.bincount(own[pools == pool], minlength=8) / (pools == pool).sum()
        assert all(own[pools == pools[b[0]]].tolist().count(k) for b, k in zip(batches, method.drawn_from, strict=True))
    assert scipy.stats.chisquare(turns, expected).pvalue > 1e-3
    batch = batch_of(method, split, epoch=39)
    (term,) = step(method, batch)
    assert term == f"slice{method.drawn_from[0]}"


def test_dac_clusters_fit_the_batches_of_a_run_resumed_on_more_processes(split):
    """The global batch of two processes is that of one process with twice the --batch_size."""
    flags = ("--dac_nb_clusters", 4, "--dac_recluster_every", 50)
    method = build("dac", split, *flags)
    method.epoch_batches(0)
    doubled = build("dac", split, *flags, "--batch_size", 24)
    assert len(set(method.clusters.drawn_from(12).tolist())) > len(set(method.clusters.drawn_from(24).tolist()))
    doubled.load_state_dict(method.state_dict())
    doubled.embed_training_set = None  # would fail if it were called
    batches = np.asarray(doubled.epoch_batches(1))
    assert batches.shape[1] == 24
    pools = doubled.clusters.drawn_from(24).numpy()[batches]
    assert (pools == pools[:, :1]).all()


def phases(method, epochs):
    """(term, whether batches stay within a cluster) of each epoch."""
    for epoch in epochs:
        method.epoch = epoch
        batches = np.asarray(method.epoch_batches(epoch))
        drawn_from = method.clusters.drawn_from(batches.shape[1]).numpy()[batches]
        yield method.slices_train, bool((drawn_from == drawn_from[:, :1]).all())


def test_dac_phases_of_the_paper_and_of_the_released_recipe(split):
    paper = build("dac", split, "--dac_nb_clusters", 2, "--nb_epochs", 20)
    assert list(phases(paper, (0, 18, 19))) == [(True, True), (True, True), (False, False)]
    authors = build("dac", split, "--dac_preset", "authors", "--dac_nb_clusters", 2)
    assert authors.args.nb_epochs == 200
    expected = [(True, True)] * 2 + [(False, True)] * 2 + [(False, False)] * 2
    assert list(phases(authors, (0, 79, 80, 189, 190, 199))) == expected


def test_dac_without_an_epoch_on_all_data_is_warned_of(recwarn):
    assert parameters.parse("dac", ["--nb_epochs", "2"]).dac_finetune_epoch == 1
    parameters.parse("dac", ["--nb_epochs", "20", "--dac_finetune_epoch", "19"])
    assert not recwarn
    with pytest.warns(UserWarning, match="--dac_finetune_epoch 20 is not below --nb_epochs 20"):
        parameters.parse("dac", ["--nb_epochs", "20", "--dac_finetune_epoch", "20"])


def test_dac_that_divides_nothing_is_warned_of():
    with pytest.warns(UserWarning, match=r"--dac_merge_epoch 0 \(of --nb_epochs 1\).*nothing is divided") as warned:
        assert parameters.parse("dac", ["--nb_epochs", "1"]).dac_finetune_epoch == 0
    assert len(warned) == 1, "its one epoch is on all data"


def test_dac_whole_embedding_has_its_own_criterion(split):
    method = build("dac", split, "--dac_nb_clusters", 2, "--dac_finetune_epoch", 0, "--margin_learn_beta", "yes")
    terms = step(method, batch_of(method, split))
    assert terms.keys() == {"whole"}
    assert all(head.weight.grad.any() for head in method.network.heads.values())
    assert method.of_whole.beta.grad.any()
    assert all(criterion.beta.grad is None for criterion in method.of_slice)
    assert not list(build("dac", split).of_whole.parameters()), "boundaries are fixed by default"


def test_dac_clusters_what_it_is_told_to(split):
    asked = []
    method = build("dac", split, "--dac_nb_clusters", 2, "--dac_cluster_on", "features")
    method.embed_training_set = lambda embed: asked.append(embed) or embedded(method, embed)
    method.epoch_batches(0)
    method.eval()
    rows = asked[0](images_of(torch.arange(3)))
    assert rows.shape == (3, 512)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))


def test_dac_more_clusters_than_images_is_an_error(split):
    with pytest.raises(UserError, match="--dac_nb_clusters 128 is more than the 72 labelled images"):
        build("dac", split, "--sz_embedding", 128, "--dac_nb_clusters", 128)


# -- BIER ------------------------------------------------------------------------------------------------------------


def test_bier_decorrelation_reaches_the_embedding_layer_and_nothing_below(split):
    method = build("bier", split)
    terms = method(batch_of(method, split))
    moved = moved_by(terms, method, ["adversarial", "norms"])
    weights = {f"network.heads.group{m}.weight" for m in (1, 2, 3)}
    assert {n for n in moved if n.startswith("network")} == weights
    assert any(n.startswith("decorrelation") for n in moved)
    learners = moved_by(terms, method, ["learner1", "learner2", "learner3"])
    assert not any(n.startswith("decorrelation") for n in learners)
    assert {"network.backbone.net.conv1.weight"} | weights <= learners
    assert {n for n in moved_by(terms, method, ["learner2"]) if ".heads." in n} == {
        "network.heads.group2.weight",
        "network.heads.group2.bias",
    }


def test_bier_inner_products_are_the_ensembles_scores(split):
    method = build("bier", split, "--bier_sizes", 4, 4, 8).eval()
    images = images_of(torch.arange(6))
    groups = method.network(images)
    assert [rows.shape[1] for rows in groups.values()] == [4, 4, 8]
    alpha = learner_weights(3)
    expected = sum(a * rows @ rows.T for a, rows in zip(alpha, groups.values(), strict=True))
    rows = method.embed(images)
    torch.testing.assert_close(rows @ rows.T, expected)
    authors = build("bier", split, "--bier_sizes", 4, 4, 8, "--bier_test_weights", "size").eval()
    rows, groups = authors.embed(images), authors.network(images)
    by_size = sum(size**2 * g @ g.T for size, g in zip((4, 4, 8), groups.values(), strict=True)) / (16 + 16 + 64)
    torch.testing.assert_close(rows @ rows.T, by_size)


def test_bier_groups_grow_and_start_from_glorots_distribution(split):
    method = build("bier", split, "--sz_embedding", 96)
    assert [head.out_features for head in method.network.heads.values()] == [16, 32, 48]
    for head in method.network.heads.values():
        bound = (6 / (512 + head.out_features)) ** 0.5
        assert head.weight.abs().max() <= bound
        assert head.weight.detach().std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
        assert not head.bias.any()


def test_bier_prefit_decorrelates_once(split):
    flags = ("--bier_sizes", 8, 8, "--bier_prefit_steps", 60, "--bier_lambda_weight", 0)
    method = build("bier", split, *flags)
    features = embedded(method, method.network.features)

    def products():
        one, other = (features @ weight.T for weight in method.weights())
        return (one.square().mean(1) * other.square().mean(1)).mean().item()

    before = products()
    backbone = method.network.backbone.net.conv1.weight.clone()
    method.epoch_batches(0)
    fitted = [weight.clone() for weight in method.weights()]
    assert products() < 0.5 * before
    assert torch.equal(backbone, method.network.backbone.net.conv1.weight)
    restored = build("bier", split, *flags)
    restored.load_state_dict(method.state_dict())
    restored.embed_training_set = None
    restored.epoch_batches(0)
    assert all(torch.equal(a, b) for a, b in zip(fitted, restored.weights(), strict=True))


def test_bier_prefit_keeps_output_units_at_unit_length_under_the_released_preset(split):
    """The released code's other axis is that of the adversarial loss alone."""
    flags = ("--bier_preset", "authors", "--batch_size", 30, "--sz_embedding", 16, "--bier_sizes", 4, 12)
    method = build("bier", split, *flags, "--bier_prefit_steps", 300, "--bier_prefit_lr", 0.01)
    method.epoch_batches(0)
    for weight in method.weights():
        torch.testing.assert_close(weight.detach().norm(dim=1), torch.ones(len(weight)), atol=0.02, rtol=0)


def test_bier_shows_its_boosting_weights(split):
    method = build("bier", split)
    method(batch_of(method, split))
    assert method.observed.keys() == {f"boosting_of_{kind}{m}" for kind in ("positives", "negatives") for m in (2, 3)}
    assert all(0 < weight < 1 for weight in method.observed.values())


# -- SNDL ------------------------------------------------------------------------------------------------------------


def test_sndl_memory_is_written_after_the_step_and_only_where_images_were_seen(split):
    method = build("sndl", split, "--freeze_batch_norm", "yes")  # an image then embeds alike, alone or in a batch
    batch = batch_of(method, split)
    before = method.memory.rows.clone()
    method(batch)
    assert torch.equal(before, method.memory.rows)
    expected = F.normalize(0.5 * before[batch.indices] + 0.5 * method.embed(batch.images).detach())
    method.after_step()
    torch.testing.assert_close(method.memory.rows[batch.indices], expected)
    others = np.setdiff1d(np.arange(N), batch.indices)
    assert torch.equal(before[others], method.memory.rows[others])


def test_sndl_joint_classifier_reads_what_is_not_normalised(split):
    method = build("sndl", split, "--sndl_bce_weight", 2)
    batch = batch_of(method, split)
    terms = method(batch)
    head = method.network.heads["embedding"]
    with torch.no_grad():
        head.weight *= 3
        head.bias *= 3
    scaled = method(batch)
    torch.testing.assert_close(scaled["nca"], terms["nca"])
    assert not torch.isclose(scaled["bce"], terms["bce"])
    assert "joint.classifier.weight" in moved_by(scaled, method, ["bce"])
    alone = build("sndl", split, "--sndl_bce_weight", 0)
    assert alone(batch_of(alone, split)).keys() == {"nca"}
    args = parameters.parse("sndl", [*SMALL, "--sndl_bce_weight", "0"])
    assert "classifier" not in [group["name"] for group in alone.param_groups(args)]


def test_sndl_epochs_are_shuffles_with_the_momentum_of_their_stage(split):
    method = build("sndl", split, "--nb_epochs", 130)
    momenta = {}
    for epoch in (0, 79, 80, 119, 120, 129):
        assert sorted(np.concatenate(list(method.epoch_batches(epoch)))) == list(range(N))
        momenta[epoch] = round(float(method.memory.momentum), 4)
    assert momenta == {0: 0.5, 79: 0.5, 80: 0.8, 119: 0.8, 120: 0.9, 129: 0.9}


@pytest.mark.parametrize(
    ("momenta", "epochs"),
    [((0.5,), []), ((0.5, 0.9), [60]), ((0.5, 0.8, 0.9), [74, 111]), ((0.5, 0.6, 0.7, 0.8), [30, 60, 90])],
)
def test_sndl_stages_follow_from_the_number_of_momenta(split, momenta, epochs):
    method = build("sndl", split, "--sndl_momenta", *momenta)
    assert list(method.memory.boundaries) == epochs
    for epoch, momentum in zip([0, *epochs], momenta, strict=True):
        method.epoch_batches(epoch)
        assert float(method.memory.momentum) == pytest.approx(momentum)
    short = parameters.parse("sndl", ["--nb_epochs", "1", "--sndl_momenta", *map(str, momenta)])
    assert short.sndl_momentum_epochs == list(range(1, len(momenta)))


def test_sndl_warm_start_fills_the_memory_once(split):
    method = build("sndl", split, "--sndl_warm_start")
    assert not method.memory.written.any()
    method.epoch_batches(0)
    assert method.memory.written.all()
    torch.testing.assert_close(method.memory.rows, embedded(method, method.embed))
    method.embed_training_set = None
    method.epoch_batches(0)


# -- flags -----------------------------------------------------------------------------------------------------------


def test_presets_come_after_the_defaults_and_before_the_command_line():
    paper, authors = (parameters.parse("sndl", ["--sndl_preset", preset]) for preset in ("paper", "authors"))
    assert (paper.nb_epochs, paper.sndl_momentum_epochs, paper.sz_embedding) == (120, [74, 111], 512)
    assert (authors.nb_epochs, authors.sndl_momentum_epochs, authors.sz_embedding) == (130, [80, 120], 128)
    assert (authors.optim, authors.lr, authors.backbone_lr) == ("sgd", 0.1, 0.1)
    tuned = parameters.parse("sndl", ["--sndl_preset", "authors", "--weights", "imagenet"])
    assert (tuned.freeze_batch_norm, tuned.color_jitter) == (False, 0.4), "the released code trains batch norm"
    given = parameters.parse("sndl", ["--sndl_preset", "authors", "--lr", "0.01", "--nb_epochs", "40"])
    assert (given.lr, given.nb_epochs, given.batch_size) == (0.01, 40, 256)
    assert parameters.parse("diva", []).num_samples_per_class == 3
    assert parameters.parse("diva", ["--num_samples_per_class", "4"]).num_samples_per_class == 4


@pytest.mark.parametrize("preset", parameters.PRESET_NAMES)
def test_presets_name_flags_of_their_method_with_values_that_they_take(name, preset):
    known = {flag.name: flag for flags in parameters.groups_of(name).values() for flag in flags}
    parser = parameters.parser_of(name)
    for flag, value in parameters.PRESETS[name][preset].items():
        assert flag in known
        words = flags.spelled(value).split()
        assert vars(parser.parse_args([f"--{flag}", *words])) == {flag: value}


def test_the_authors_preset_builds_and_steps(name, split):
    small = ("--bier_sizes", 4, 4, 8) if name == "bier" else FEW_CLUSTERS.get(name, ())
    method = build(name, split, f"--{name}_preset", "authors", *small)
    terms = step(method, batch_of(method, split))
    assert all(term.isfinite() for term in terms.values())
    if name == "diva":
        assert method.margins["disc"].beta.requires_grad
        assert method.margins["disc"].beta.shape == (L,)


def test_help_shows_the_methods_own_defaults():
    assert "images drawn for each class of a balanced batch (SNDL shuffles plainly) (m) [3]" in " ".join(
        parameters.parser_of("diva").format_help().split()
    )


@pytest.mark.parametrize(
    ("name", "argv", "said"),
    [
        ("diva", "--sz_embedding 18", "--sz_embedding 18 cannot be divided equally among the four heads of DiVA"),
        ("dac", "--sz_embedding 100", "--sz_embedding 100 cannot be divided equally among --dac_nb_clusters 8"),
        ("dac", "--dac_nb_clusters 0", "--dac_nb_clusters 0"),
        ("dac", "--dac_recluster_every 0", "--dac_recluster_every 0 must be at least 1"),
        ("dac", "--dac_merge_epoch 9 --dac_finetune_epoch 8", "--dac_merge_epoch 9 must lie between"),
        ("bier", "--bier_sizes 96 160 257", "--bier_sizes 96 160 257 add up to 513, not to --sz_embedding 512"),
        ("bier", "--bier_sizes -1 513", "--bier_sizes -1 513"),
        ("bier", "--bier_groups 0", "--bier_groups 0 must be at least 1"),
        ("bier", "--bier_groups 300", "cannot be split into 300 growing groups"),
        ("sndl", "--sndl_momenta 0.5 0.9 --sndl_momentum_epochs 3 5", "one fewer than there are --sndl_momenta"),
        ("sndl", "--sndl_temperature 0", "--sndl_temperature 0"),
        ("diva", "--diva_moco_momentum 1.5", "--diva_moco_momentum 1.5"),
        ("diva", "--diva_moco_upper_cutoff 0.5", "--diva_moco_lower_cutoff 0.5 and --diva_moco_upper_cutoff 0.5 do"),
        ("diva", "--diva_moco_lower_cutoff 0", "do not satisfy 0 < lower < upper"),
        ("diva", "--distance_lower_cutoff 1.4", "--distance_lower_cutoff 1.4 and --distance_upper_cutoff 1.4 do"),
    ],
)
def test_misuse_names_the_flags(split, name, argv, said):
    flags = ["--arch", "resnet18", "--batch_size", "12", "--num_samples_per_class", "3", *argv.split()]
    with pytest.raises(UserError) as error:
        METHODS[name](parameters.parse(name, flags), split)
    assert said in str(error.value)


def test_relations_are_as_the_flags_say(split):
    method = build("bier", split, "--label_relation", "any_share")
    assert method.relation == PairRule("any_share", 0.5, 0.0)
    assert method.deviance.relation is method.relation
