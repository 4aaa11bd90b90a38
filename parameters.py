"""Every flag and every default of the project.

Tables, and the few lines that join them: `parse(method, argv)` gives the settings of a run, `start_run` starts it as
well. What follows from flags, and which do not go together, is in `utilities/flags/`. `python parameters.py` prints
docs/flags.md.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from architectures.choice import architectures, input_defaults
from architectures.embedding import HEADS
from architectures.fill import MISSING
from batchminer import MINERS, related_miners
from batchminer.shared_distance import POSITIVES
from criteria import CRITERIA, of_batches
from criteria.binomial import BOOSTING
from criteria.decorrelation import NORM_AXES, NORM_REDUCTIONS
from criteria.margin import COUNTED
from criteria.moco import BUFFER_RULES, NORMALISATIONS, WEIGHTED
from criteria.nca import WEIGHTINGS
from datasets import DATASETS
from datasets.batches import scaling
from datasets.batches.cluster_batches import ORDERS
from datasets.open import other_archive
from datasets.ucmerced.dataset import SPLIT_RULES
from utilities.errors import UserError, main_guard
from utilities.export import command
from utilities.flags import combinations, idle, of_cv4rs, resume
from utilities.flags import page as flags_page
from utilities.flags.derive import derive
from utilities.flags.flag import AUTO, Flag, Parser, build_parser, check_bounds, switch, yes_no
from utilities.flags.readers import readers
from utilities.flags.settings import Settings
from utilities.measures import formulae as metrics
from utilities.measures import protocols
from utilities.neighbours import coders, embedding_map
from utilities.runs import folder as run_folder
from utilities.tensors import labels
from utilities.training import optim, precision, start

METHODS = ("baseline", "diva", "dac", "bier", "sndl")
KS = metrics.KS
# Flags of training and of evaluation.
SKIP_BROKEN_IMAGES = switch(
    "skip_broken_images", "leave out unreadable images with a warning and a count instead of stopping"
)
RELEVANCE = [
    Flag("relevance", "subset", "which neighbours count as relevant in hit@K, precision@K and the other measures of relevance", choices=metrics.RELEVANCE_RULES),
    Flag("relevance_threshold", 0.5, "smallest Jaccard similarity that --relevance jaccard counts as relevant", float, low=0, high=1),
]  # fmt: skip
BACKEND = Flag("backend", AUTO, "neighbour search, all with the same result; auto is torch, the fastest", choices=(AUTO, "faiss", "faiss-gpu", "torch"))  # fmt: skip

DATA = [
    Flag("dataset", "Demo", "data set", choices=DATASETS.names(), aliases=("dataset_name",)),
    Flag("source_path", "demo_data", "folder of the data set or the one above it, with --use_npmem also its archive (Demo: generated there when absent)"),
    Flag("image_size", AUTO, "side of the network's input in pixels; 224 (BigEarthNet 100, Demo 64)", int, low=2),
    Flag("resize_to", AUTO, "side to which whole images are resized before the crop; image_size * 8/7 (BigEarthNet 6/5)", int),
    Flag("small_epochs", 0, "progressive resizing: number of initial epochs on smaller, cheaper images", int, low=0),
    Flag("small_image_size", AUTO, "side of the network's input during --small_epochs; half of --image_size", int, low=2),
    Flag("crop_area", None, "smallest and largest share of the image's area that a random resized crop takes; default: a crop without resizing", float, nargs="2"),
    Flag("color_jitter", 0.0, "8-bit RGB images: brightness, contrast, saturation times 1 + U(-x, x) in training", float, low=0, high=1),
    switch("no_flips", "no mirroring and no right-angle rotations in training"),
    switch("per_image_normalisation", "standardise each image by its own band statistics instead of the data set's"),
    switch("use_npmem", "read from a memory-mapped array, prepared once next to the data (--cache_path)"),
    Flag("cache_path", None, "folder for prepared data; default: inside --source_path"),
    SKIP_BROKEN_IMAGES,
    Flag("num_workers", 2, "processes that read images; 0: the training process itself", int, low=0),
    Flag("num_samples_per_class", 2, "images drawn for each class of a balanced batch (SNDL shuffles plainly) (m)", int, low=1),
    Flag("batch_size", 120, "images of a training batch on each process", int, low=1),
    Flag("eval_batch_size", 250, "images of an evaluation batch on each process", int, low=1),
]  # fmt: skip

NETWORK = [
    Flag("arch", "resnet50", "backbone: torchvision's, or any of timm's", choices=architectures()),
    Flag("weights", AUTO, "none, imagenet (torchvision's V1; timm's own of that name), imagenet_v2, or a file, docs/weights.md; imagenet (Demo none)"),
    Flag("weights_bands", None, "bands of the first layer in a file of --weights: a source of docs/weights.md, or names in order such as B02,B03,B04; default: as the file tells, three channels R,G,B"),
    Flag("missing_bands", None, "filters of bands that --weights lacks: the mean of the others, or zero; default: an error, of networks of photographs mean", choices=MISSING),
    Flag("input_scaling", AUTO, "what pixels become: standardised by the data set's statistics, or as a network was pretrained; dataset, timm's with their own weights: network (lite0 tensorflow)", choices=(*scaling.NAMES, AUTO)),
    Flag("interpolation", AUTO, "how whole images are resized; bilinear, timm's networks: as they were pretrained", choices=("bilinear", "bicubic", AUTO)),
    Flag("head", "linear", "layer from the backbone's features to the embedding; none: the features themselves, with --nb_epochs 0", choices=HEADS),
    Flag("sz_embedding", 512, "dimensions of the embedding, all heads together (D)", int, low=1),
    switch("frozen", "freeze the backbone's weights and batch-norm statistics; only heads and criteria train"),
    Flag("stored_views", AUTO, "with --frozen: heads train from features of so many augmented views of each image, computed once and kept (--cache_path, or stored_features in --save_path); 0: fresh views; 8, at most --nb_epochs, and 0 with --small_epochs", int, low=0),
    Flag("freeze_batch_norm", AUTO, "fix batch-norm statistics while weights train; yes with pretrained weights, else no", yes_no),
]  # fmt: skip

TRAINING = [
    Flag("nb_epochs", 120, "epochs of the whole run; 0: evaluate the network as it starts", int, low=0),
    Flag("optim", AUTO, "optimizer; adam with pretrained weights, adamw from scratch", choices=(*optim.OPTIMIZERS, AUTO)),
    Flag("lr", AUTO, "learning rate of the heads; 1e-5 with pretrained weights, 1e-3 from scratch", float, low=0),
    Flag("backbone_lr", AUTO, "learning rate of the backbone; as --lr", float, low=0),
    Flag("weight_decay", AUTO, "weight decay; 4e-4 with pretrained weights, 0.05 from scratch", float, aliases=("decay",), low=0),
    Flag("decay_kernels_only", False, "no weight decay on biases and batch norm (vectors)", yes_no),
    Flag("momentum", 0.9, "momentum of sgd", float, low=0, high=1),
    Flag("scheduler", AUTO, "learning-rate schedule; step with pretrained weights, onecycle from scratch", choices=(*optim.SCHEDULES, AUTO)),
    Flag("tau", [55], "step: epochs at which the rate is multiplied by --gamma", int, nargs="+", low=0),
    Flag("gamma", 0.3, "factor of the rate; step: at each --tau, exp: after every epoch", float, low=0),
    Flag("clip_gradient", 0.0, "largest norm of the gradient; 0: no clipping", float, low=0),
    Flag("random_seed", 0, "seed of everything random", int, low=0),
]  # fmt: skip

RUN = [
    Flag("save_path", "Training_Results", "parent of <dataset>/<savename>"),
    Flag("savename", AUTO, "name of the run folder; the method's name"),
    Flag("load_from_checkpoint", None, "run folder to resume; everything else is read from it"),
    Flag("eval_epoch", 10, "epochs between validations; the last epoch is always validated", int, low=1),
    Flag("eval_metric", ["recall@1", "recall@8", "r_precision@8", "map@8", "label_jaccard@8"],
         "measures of a validation; name@K stands for K = 1 2 4 8, a name alone for the whole ranking", nargs="+"),
    Flag("eval_test", False, "score the test split too at each validation, as split test of metrics.jsonl; best.pt is still chosen on val", yes_no),
    *RELEVANCE,
    switch("is_log_intra_inter_overlap", "log how far the densities of intra- and inter-group distances overlap, over all pairs (CV4RS: over pairs with an image of the commonest label)"),
    Flag("save_every_steps", 0, "also write last.pt every so many steps; 0: after epochs only", int, low=0),
    Flag("save_on_signal", True, "on SIGTERM or SIGHUP, end the step and write last.pt before stopping, within 20 s; else stop at once", yes_no),
    Flag("log_every_steps", 100, "steps between lines of training losses (besides one after each epoch)", int, low=1),
    BACKEND,
    Flag("device", AUTO, "device of a process; auto takes a GPU where there is one", choices=(AUTO, "cpu", "cuda")),
    Flag("threads", None, "threads of a process on CPUs; default: torch's, one a core (torchrun: one). On a machine that others use, fewer are faster", int, low=1),
    Flag("gpu_ids", None, "GPUs of one machine; several: one process each", int, nargs="+"),
    Flag("precision", AUTO, "bf16 autocast or plain float32; auto takes bf16 where the device is fast in it", choices=precision.CHOICES),
    switch("contiguous", "memory format NCHW instead of channels_last"),
    switch("compile", "torch.compile the backbone"),
]  # fmt: skip

WANDB = [
    switch("log_online", "log to Weights & Biases as well (key: WANDB_API_KEY or --wandb_key)"),
    switch("wandb_dryrun", "as --log_online, but write an offline run for `wandb sync`", aliases=("wandb_dry_run",)),
    Flag("wandb_key", None, "Weights & Biases key; never stored"),
    Flag("project", "multilabel-rs-retrieval", "Weights & Biases project"),
    Flag("group", AUTO, "Weights & Biases group; the method's name"),
]

PAIRS = [
    Flag("label_relation", "jaccard", "positive pairs: jaccard >= --positive_threshold, any shared label (always so for multilabel_semihard), identical sets", choices=labels.RELATIONS),
    Flag("positive_threshold", 0.5, "smallest Jaccard similarity of a positive pair", float),
    Flag("negative_threshold", 0.0, "largest Jaccard similarity of a negative pair (0: nothing shared)", float),
]  # fmt: skip

MARGIN = [
    Flag("margin_gamma", 0.2, "margin loss: half width of the margin around beta (gamma)", float, low=0),
    Flag("margin_beta", 1.2, "margin loss: boundary between positive and negative distances (beta)", float),
    Flag("margin_nu", 0.0, "margin loss: weight of the regulariser on beta (nu)", float, low=0),
    Flag("margin_per_class", True, "margin loss: one boundary per class", yes_no),
    Flag(
        "margin_counted",
        "terms",
        "margin loss: what its sum is divided by, terms or triplets that are not zero (triplets: the releases of DiVA and D&C)",
        choices=COUNTED,
    ),
    Flag("margin_learn_beta", True, "margin loss: boundaries are learned", yes_no),
    Flag(
        "criterion_lr",
        5e-4,
        "margin loss: rate of the boundaries (DiVA's release; Wu et al. 0.1, by SGD)",
        float,
        low=0,
    ),
]

MINING = [
    Flag("semihard_margin", 0.2, "semihard: width of the band behind the positive", float),
    Flag("distance_lower_cutoff", 0.5, "distance: smaller distances count as this one", float),
    Flag(
        "distance_upper_cutoff",
        1.4,
        "distance: negatives farther away are not drawn (beyond 2: no cut-off)",
        float,
    ),
    Flag("multilabel_semihard_max_triplets", 20, "multilabel_semihard: triplets kept for an anchor", int),
    Flag(
        "multilabel_semihard_coarse_draws",
        3,
        "multilabel_semihard: unrelated negatives drawn for a positive (K)",
        int,
    ),
    Flag("nearest_beyond_lower_cutoff", 0.5, "nearest_beyond: negatives nearer than this are passed over", float),
]

BASELINE = [
    Flag(
        "baseline_loss",
        "margin",
        "criterion: margin and triplet on mined triplets, the others on a batch as it is, without a miner",
        choices=CRITERIA.taking("triplets") + of_batches(),
    ),
    Flag("baseline_batch_miner", "softhard", "miner of the losses on triplets", choices=related_miners()),
    Flag(
        "baseline_batches",
        "balanced",
        "class-balanced batches, or shuffles of the training set",
        choices=("balanced", "shuffled"),
    ),
    Flag("triplet_margin", 0.0, "triplet loss: how much nearer than the negative the positive must be", float, low=0),
    Flag("batch_nca_weighting", "jaccard", "batch_nca: similarity of two label sets (w)", choices=tuple(WEIGHTINGS)),
    Flag("batch_nca_temperature", 0.1, "batch_nca: temperature of the neighbour softmax (T)", float),
    Flag("multi_similarity_alpha", 2.0, "multi_similarity: sharpness of the weights of positives (alpha)", float),
    Flag("multi_similarity_beta", 50.0, "multi_similarity: sharpness of the weights of negatives (beta)", float),
    Flag("multi_similarity_base", 0.5, "multi_similarity: cosine around which pairs weigh (lambda); 1 in the paper's text", float),
    Flag("multi_similarity_epsilon", 0.1, "multi_similarity: how far behind the hardest of the other kind pairs are mined", float),
    Flag("mulsupcon_temperature", 0.1, "mulsupcon: temperature of the softmax (T)", float),
    Flag("classifier_temperature", 0.1, "classifier: by what cosines to the labels' vectors are divided (T)", float),
    Flag("smoothap_weighting", "jaccard", "smoothap: grades, a similarity of two label sets (r)", choices=tuple(WEIGHTINGS)),
    Flag("smoothap_temperature", 0.01, "smoothap: temperature of the sigmoid that counts ranks (T)", float),
    Flag("smoothap_include_query", False, "smoothap: the query is retrieved as well, as in the released code", yes_no),
]  # fmt: skip

PRESET_NAMES = ("paper", "authors")

DIVA = [
    Flag("diva_preset", "paper", "paper: as published; authors: their released recipe with its quirks", choices=PRESET_NAMES),
    Flag("diva_batch_miner", "distance", "miner of the discriminative head", choices=related_miners()),
    Flag("diva_shared_miner", "shared_distance", "miner of the class-shared head; random_distance permutes labels, as the released code", choices=("shared_distance", "random_distance")),
    Flag("distance_positive", "random", "shared_distance: positives uniformly, or by distance weights as well", choices=POSITIVES),
    Flag("intra_random_with_replacement", False, "miner of the intra-class head: images of a triplet may coincide, as in the released code", yes_no),
    Flag("diva_alpha_shared", 0.3, "weight of the class-shared loss (alpha_1)", float, low=0),
    Flag("diva_alpha_intra", 0.3, "weight of the intra-class loss (alpha_2)", float, low=0),
    Flag("diva_alpha_nce", 0.3, "weight of the self-similarity loss (alpha_3)", float, aliases=("diva_alpha_ssl",), low=0),
    Flag("diva_head_weights", [0.5, 1.0, 1.0, 1.0], "weights of disc, shared, intra, nce in the embedding that is searched", float, nargs="4", low=0),
    Flag("diva_adversarial_rho", [1500.0, 1500.0, 1500.0], "weights of the separation of disc from nce, shared, intra (rho)", float, nargs="3", aliases=("diva_adversarial_weight",), low=0),
    Flag("diva_adversarial_hidden", 512, "hidden units of the regressors psi", int, aliases=("diva_hidden_adversarial_size",), low=1),
    Flag("diva_adversarial_lr", AUTO, "learning rate of the regressors psi; as --backbone_lr (both 1e-5 in the paper)", float, low=0),
    Flag("diva_moco_momentum", 0.9, "momentum of the key encoder (mu)", float),
    Flag("diva_moco_buffers", "average", "batch-norm statistics of the key encoder: average like weights, or copy", choices=BUFFER_RULES),
    Flag("diva_moco_temperature", 0.1, "temperature of the self-similarity loss (tau)", float),
    Flag("diva_moco_n_key_batches", None, "length of the queue in batches of --batch_size; default: 30, or what the training set holds", int),
    Flag("diva_moco_lower_cutoff", 0.5, "queue: smaller distances weigh as this one", float),
    Flag("diva_moco_upper_cutoff", 1.4, "queue: keys farther away weigh nothing", float),
    Flag("diva_moco_normalise", "row", "queue: weights sum to one over the queue, over the batch (release of 2020), or not", choices=NORMALISATIONS),
    Flag("diva_moco_weight_in", "logit", "queue: weights multiply the logits, or none: plain MoCo", choices=WEIGHTED),
    Flag("diva_moco_exclude_own", True, "queue: leave out earlier keys of the query's own image", yes_no),
]  # fmt: skip

DAC = [
    Flag("dac_preset", "paper", "paper: as published; authors: their released recipe with its quirks", choices=PRESET_NAMES),
    Flag("dac_nb_clusters", 8, "clusters, and slices of the embedding (K)", int, low=1),
    Flag("dac_recluster_every", 2, "epochs between clusterings (T)", int, aliases=("dac_mod_epoch",), low=1),
    Flag("dac_merge_epoch", AUTO, "epoch from which the whole embedding is trained, still on batches of one cluster; as --dac_finetune_epoch (authors: at 8/19 of it)", int),
    Flag("dac_finetune_epoch", AUTO, "epoch from which the whole embedding is trained on all data; at 95 % of the run", int),
    Flag("dac_cluster_on", "embedding", "what is clustered: the whole embedding, or the features before the heads", choices=("embedding", "features")),
    Flag("dac_cluster_order", "shuffled", "batches of all clusters in random order, each once; or clusters in turn, small ones repeated", choices=ORDERS),
    Flag("dac_kmeans_iterations", 25, "iterations of k-means", int, low=1),
    Flag("dac_kmeans_redo", 3, "starts of k-means, of which the best counts", int, low=1),
    Flag("dac_batch_miner", "distance", "miner of slices and of the whole embedding", choices=related_miners()),
]  # fmt: skip

BIER = [
    Flag("bier_preset", "paper", "paper: as published; authors: their released recipe with its quirks", choices=PRESET_NAMES),
    Flag("bier_groups", 3, "learners (M), of growing size", int, low=1),
    Flag("bier_sizes", None, "dimensions of each learner, of sum --sz_embedding; default: growing as 1 : 2 : ... : M", int, nargs="+", aliases=("bier_sub_embed_sizes",)),
    Flag("bier_beta1", 2.0, "binomial deviance: scale (beta_1)", float),
    Flag("bier_beta2", 0.5, "binomial deviance: cosine at the boundary (beta_2)", float),
    Flag("bier_negative_cost", 25.0, "binomial deviance: cost of a negative pair (C)", float, low=0),
    Flag("bier_boosting", "eta", "Algorithm 1, or the additive recursion of the released recipe", choices=BOOSTING),
    Flag("bier_shrinkage", 0.06, "additive boosting: step", float, low=0),
    Flag("bier_include_diagonal", False, "count pairs of an image with itself among the positives, as the released code", yes_no),
    Flag("bier_lambda_div", 5e-5, "weight of the decorrelation (lambda_div)", float, low=0),
    Flag("bier_lambda_weight", 100.0, "weight of the unit-length penalty within it (lambda_w)", float, low=0),
    Flag("bier_norm_axis", "output", "unit-length penalty: on weights of one output unit, or of one input", choices=NORM_AXES),
    Flag("bier_norm_reduction", "sum", "unit-length penalty: summed over a matrix, or its mean", choices=NORM_REDUCTIONS),
    Flag("bier_hidden", 512, "hidden units of the adversarial regressors", int, aliases=("bier_hidden_adversarial_size",), low=1),
    Flag("bier_adversarial_lr", AUTO, "learning rate of the adversarial regressors; as --backbone_lr", float, low=0),
    Flag("bier_test_weights", "alpha", "learners in the embedding that is searched: by alpha, so that cosines are the ensemble's, or by size", choices=("alpha", "size")),
    Flag("bier_prefit_steps", 0, "steps of activation loss on the embedding layer before training (BIER); 0: Glorot's start alone (A-BIER)", int, low=0),
    Flag("bier_prefit_lr", 1e-3, "learning rate of the --bier_prefit_steps", float, low=0),
]  # fmt: skip

SNDL = [
    Flag("sndl_preset", "paper", "paper: as published; authors: their released recipe with its quirks", choices=PRESET_NAMES),
    Flag("sndl_weighting", "hamming", "similarity of two label sets (w)", choices=tuple(WEIGHTINGS)),
    Flag("sndl_temperature", 0.05, "temperature of the neighbour softmax (T)", float),
    Flag("sndl_margin", 0.0, "cosine by which related images shall be nearer", float),
    Flag("sndl_momenta", [0.5, 0.8, 0.9], "momentum of the memory in each stage (m)", float, nargs="+"),
    Flag("sndl_momentum_epochs", AUTO, "epochs at which the next momentum begins; of three at 8/13 and 12/13 of the run, of others in equal stages", int, nargs="+"),
    Flag("sndl_bce_weight", 1.0, "weight of the joint classifier; 0: none", float, low=0),
    switch("sndl_warm_start", "fill the memory with embeddings of the untrained network instead of random rows"),
]  # fmt: skip

# What a method changes in the defaults. `paper` holds for every run of the method, `authors` comes on top of it.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "diva": {
        "paper": {"num_samples_per_class": 3, "margin_per_class": False, "margin_learn_beta": False},
        "authors": {
            "nb_epochs": 350, "batch_size": 112, "num_samples_per_class": 2, "sz_embedding": 512,
            "optim": "adam", "lr": 1e-5, "weight_decay": 4e-4, "scheduler": "step", "tau": [55], "gamma": 0.2,
            "margin_per_class": True, "margin_learn_beta": True, "distance_upper_cutoff": 3.0,
            "margin_counted": "triplets", "crop_area": [0.08, 1.0],
            "diva_shared_miner": "random_distance", "intra_random_with_replacement": True,
            "diva_moco_temperature": 0.01, "diva_moco_normalise": "batch", "diva_moco_exclude_own": False,
        },
    },
    "dac": {
        "paper": {"num_samples_per_class": 4, "margin_per_class": False, "margin_learn_beta": False},
        "authors": {
            "nb_epochs": 200, "batch_size": 80, "sz_embedding": 128,
            "optim": "adam", "lr": 1e-5, "weight_decay": 1e-4, "scheduler": "none",
            "margin_counted": "triplets", "crop_area": [0.08, 1.0],
            "dac_cluster_on": "features", "dac_cluster_order": "in_turn", "dac_batch_miner": "nearest_beyond",
        },
    },
    "bier": {
        "paper": {},
        "authors": {
            "nb_epochs": 215, "batch_size": 128, "sz_embedding": 512, "bier_sizes": [96, 160, 256],
            "optim": "adam", "lr": 1e-4, "backbone_lr": 1e-5, "weight_decay": 4e-4, "scheduler": "step",
            "tau": [54, 108, 161], "gamma": 0.5, "decay_kernels_only": True,
            "bier_boosting": "additive", "bier_include_diagonal": True, "bier_lambda_weight": 1e5,
            "bier_norm_axis": "input", "bier_norm_reduction": "mean", "bier_test_weights": "size",
        },
    },
    "sndl": {
        "paper": {},
        "authors": {
            "nb_epochs": 130, "batch_size": 256, "sz_embedding": 128,
            "optim": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "scheduler": "step",
            "tau": [30, 60, 90, 120], "gamma": 0.5, "sndl_momentum_epochs": [80, 120],
            "freeze_batch_norm": False, "image_size": 256, "resize_to": 256, "color_jitter": 0.4,
        },
    },
}  # fmt: skip

FOLDER = [
    Flag("folder_labels_csv", None, "Folder: table of labels, CSV or parquet; default: labels.csv or labels.parquet in --source_path, else no labels", aliases=("labels_csv",)),
    Flag("folder_bands", "rgb", "Folder: rgb, or names or numbers of the bands of GeoTIFFs, such as B02,B03,B04,B08 or 1,2,3,4", aliases=("bands",)),
    Flag("folder_band_scale", None, "Folder: values that become 0 and 255 of photographs, 0 and 10000 of other bands; default: as they are", float, nargs="2", aliases=("band_scale",)),
    Flag("folder_side", 256, "Folder: side to which images are resized when they are read", int, low=2),
    Flag("folder_proportions", "70/10/20", "Folder: percent of train/val/test where neither the table nor lists in splits/ say which is which"),
    Flag("folder_seed", 0, "Folder: seed of that draw", int, low=0),
]  # fmt: skip

EVALUATION = [
    Flag("load_from_checkpoint", None, "run folders to evaluate; several end with one table", nargs="+"),
    Flag("source_path", None, "folder of the data set; default: as the run recorded"),
    Flag("cache_path", None, "folder of prepared data of a run with --use_npmem; default: as the run recorded"),
    Flag("ben_splits", None, "BigEarthNet: folder of the official lists; default: as the run recorded"),
    Flag("ben_index_path", None, "BigEarthNet: folder that keeps the label table; default: as the run recorded"),
    Flag("dataset", None, "another archive than the run's: a folder of images in --source_path, or of Sentinel-2 patches for networks of BigEarthNet; default: the run's own", choices=("Folder",)),
    *(replace(flag, default=None) if flag.name == "folder_bands" else flag for flag in FOLDER if flag.name != "folder_side"),
    Flag("dataset_type", AUTO, "split to evaluate; all: the three as one; test, with --dataset all", choices=("train", "val", "test", "all")),
    Flag("gallery_split", None, "split that is searched; default: --dataset_type itself, every query without itself", choices=("train", "val", "test", "all")),
    Flag("protocol", None, "measure as a publication does (docs/protocols.md): sets the splits, --relevance and --eval_metric", choices=tuple(protocols.PROTOCOLS)),
    Flag("checkpoint", "best", "best.pt or last.pt", choices=("best", "last")),
    switch("is_evaluate_initial", "evaluate the network as it was before training"),
    switch("is_plot_dist", "draw distance_density.png on other splits than val too"),
    Flag("eval_metric", [*metrics.USUAL],
         "measures; name@K stands for K = 1 2 4 8, a name alone for the whole ranking: " + " ".join(metrics.metric_names()), nargs="+"),
    *RELEVANCE,
    Flag("retrieval_queries", 6, "queries shown in retrievals.png; 0: no picture", int, low=0, high=100),
    Flag("retrieval_files", 0, "queries shown in a PNG file each, in retrievals/, from the best to the worst; more than there are: all", int, low=0),
    switch("scores_only", "write scores, text and neighbours, and neither pictures nor report.html"),
    Flag("map_method", "pca", "layout of the map of embeddings; tsne takes minutes beyond some thousand images", choices=embedding_map.METHODS),
    Flag("comparison_path", None, "folder of the comparison of several runs; default: comparison_<network>_<split> beside them, in the current folder where they lie in several"),
    Flag("query", None, "search by example instead of scoring: images, BigEarthNet patch folders, or names of images", nargs="+"),
    Flag("boa_offset", None, "Sentinel-2: taken off every digital number but 0, of the files that --query names and of the archive that --dataset names, without both of the data set; default: as the run recorded", int, low=0, high=10_000),
    Flag("query_bands", None, "with --query: names of the bands of GeoTIFFs that do not name them, in their order, such as B02,B03,B04,B08"),
    switch("refresh", "with --query: embed the images of the split anew, whatever an earlier search has kept"),
    Flag("top", 20, "with --query: nearest images shown for each example", int, low=1),
    Flag("export", None, "FORMAT DIR: write the network (safetensors, torch_export, onnx) or the embeddings of --dataset_type (geoparquet, faiss) for other tools, in float32 unless --precision says otherwise", nargs="2"),
    Flag("codes", None, "compare binary codes of the embeddings by Hamming distance: their signs, bits above the median, iterative quantization, or random hyperplanes", choices=coders.KINDS),
    Flag("code_bits", None, "with --codes: bits of a code; default: one for each dimension of the embedding", int, low=1),
    Flag("code_seed", 0, "with --codes itq or lsh: seed of what is drawn", int, low=0),
    Flag("eval_batch_size", None, "images of a batch on each process; default: as the run recorded", int, low=1),
    Flag("num_workers", None, "processes that read images, 0: the main process; default: as the run recorded", int, low=0),
    BACKEND,
    Flag("device", AUTO, "device; auto takes a GPU where there is one", choices=(AUTO, "cpu", "cuda")),
    Flag("threads", None, "threads of a process on CPUs; default: torch's, one a core", int, low=1),
    Flag("precision", None, "bf16 or fp32; default: as the run recorded", choices=precision.CHOICES),
    SKIP_BROKEN_IMAGES,
]  # fmt: skip

DATASET = [
    Flag("demo_images_per_category", 75, "Demo: pictures of each of the 22 scene types", int),
    Flag("demo_side", 96, "Demo: side of the pictures in pixels", int),
    Flag("demo_seed", 0, "Demo: seed from which they are drawn", int, low=0),
    Flag("mlrsnet_labels", "repair", "MLRSNet: undo the corruption of the label files published since 2021, or not", choices=("repair", "as_is")),
    Flag("mlrsnet_proportions", "40/10/50", "MLRSNet: percent of train/val/test; 40/10/50, 20/10/70 and 30/10/60 are the paper's"),
    Flag("ucmerced_split", "hashed", "UC Merced: 70/10/20 of every scene by hashed names, or as GRN-SNDL draws them", choices=SPLIT_RULES),
    Flag("ben_version", 1, "BigEarthNet: 1, or 2 for reBEN", int, choices=(1, 2)),
    Flag("ben_labels", 19, "BigEarthNet: nomenclature; 43 CORINE level-3 classes or the 19 that Sentinel-2 can tell apart", int, choices=(19, 43)),
    Flag("ben_bands", "all", "BigEarthNet: all (12), 10m (B02 B03 B04 B08), rgb, or a list such as B04,B08,B11"),
    Flag("ben_splits", "auto", "BigEarthNet: folder of train.csv, val.csv, test.csv (also .bz2); auto: the official lists beside the patches; hashed: 60/20/20"),
    Flag("ben_index_path", None, "BigEarthNet: folder that keeps the label table; default: --source_path, else the user's cache"),
    *FOLDER,
    Flag("boa_offset", 0, "Sentinel-2: taken off every digital number but 0; 1000 for products since processing baseline 04.00 (January 2022)", int, low=0, high=10_000),
]  # fmt: skip

GROUPS: dict[str, list[Flag]] = {
    "data": DATA,
    "one data set": DATASET,
    "network": NETWORK,
    "training": TRAINING,
    "run and evaluation": RUN,
    "Weights & Biases": WANDB,
    "pairs of images": PAIRS,
    "margin loss": MARGIN,
    "miners": MINING,
    "baseline": BASELINE,
    "DiVA": DIVA,
    "divide and conquer": DAC,
    "BIER": BIER,
    "SNDL": SNDL,
}
OF_METHOD = {
    "baseline": ("pairs of images", "margin loss", "miners", "baseline"),
    "diva": ("pairs of images", "margin loss", "miners", "DiVA"),
    "dac": ("pairs of images", "margin loss", "miners", "divide and conquer"),
    "bier": ("pairs of images", "BIER"),
    "sndl": ("SNDL",),
}
SHARED = ("data", "one data set", "network", "training", "run and evaluation", "Weights & Biases")

# Where the data lie, which may be elsewhere at every part of a run and at its evaluation.
PATHS = ("source_path", "cache_path", "ben_splits", "ben_index_path", "folder_labels_csv")
# What an evaluation may say differently than the run did.
CHANGEABLE = (*PATHS, "eval_batch_size", "num_workers", "device", "precision")
# What may differ between the parts of a resumed run; everything else is the run's own.
RESUMABLE = {
    "nb_epochs", "load_from_checkpoint", "num_workers", "eval_batch_size", "backend",
    "device", "threads", "gpu_ids", "log_online", "wandb_dryrun", "wandb_key", "project", "group", "save_every_steps", "save_on_signal", "eval_test",
    "log_every_steps", "skip_broken_images", "use_npmem", *PATHS,
}  # fmt: skip

# What decides nothing about a run's scores: runs that are equal but for it and their seed are runs of one recipe.
INCIDENTAL = RESUMABLE - {"nb_epochs"} | {"save_path", "savename", "wandb_mode", "eval_metric"}


def groups_of(method: str) -> dict[str, list[Flag]]:
    """The flags of a training script, with the method's own defaults."""
    own = PRESETS.get(method, {}).get("paper", {})
    return {
        title: [replace(flag, default=own.get(flag.name, flag.default)) for flag in GROUPS[title]]
        for title in (*SHARED, *OF_METHOD[method])
    }


def parser_of(script: str) -> Parser:
    """The parser of `train_<script>.py`, or of `evaluate_model.py` for "evaluate"."""
    if script == "evaluate":
        ways = [f"--load_from_checkpoint RUN{more} [flags]" for more in ("", " --query IMAGE", " RUN ...")]
        about = "Evaluate saved runs on one split, or search it by example."
        return build_parser("evaluate_model.py", ways, {"evaluation": EVALUATION}, about, of_cv4rs.OF_EVALUATION)
    ways = ["--dataset NAME --source_path DIR [flags]", "--load_from_checkpoint RUN [flags]"]
    about = f"Train {script} for multi-label image retrieval."
    return build_parser(f"train_{script}.py", ways, groups_of(script), about, of_cv4rs.ANSWERS)


def parse(method: str, argv: Sequence[str]) -> Settings:
    """Settings of `train_<method>.py`: defaults, then the preset, then (on resume) what the run folder recorded, then
    `argv`, then what follows from all of them. Raises UserError or exits with code 2 on anything wrong."""
    groups = groups_of(method)
    given = parser_of(method).given(argv)
    if "load_from_checkpoint" in given:
        flags = itertools.chain.from_iterable(groups.values())
        given = resume.going_on(method, Path(given["load_from_checkpoint"]), given, flags, RESUMABLE)
    settings = settle(method, given)
    settings["initial_weights"] = resume.initial_weights(settings)
    check_bounds((flag for flags in groups.values() for flag in flags), settings)
    combinations.check(settings, PRESETS.get(method, {}))
    return Settings(settings)


def settle(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a run from the flags that are given."""
    values = {flag.name: flag.default for flags in groups_of(method).values() for flag in flags}
    values |= {"method": method, "savename": method, "group": method}
    if method in PRESETS:
        values |= PRESETS[method][given.get(f"{method}_preset", "paper")]
    settings = derive({**values, **given})
    settings |= input_defaults(settings)
    settings["eval_metric"] = measures(settings["eval_metric"])
    return settings


def command_of(recorded: Mapping[str, Any]) -> str:
    """The command that trains a run with the flags of its args.json; where things lie is left open."""
    method = recorded["method"]
    flags = [flag for group in groups_of(method).values() for flag in group]
    rest = command.shortest(flags, recorded, lambda given: settle(method, given), without=INCIDENTAL - {"eval_metric"})
    return f"python train_{method}.py --source_path DIR {rest}".rstrip()


def start_run(method: str, argv: Sequence[str] | None = None) -> Settings:
    """`parse` the command line and start what it asks for (`utilities.training.start`): this may not return."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(method, argv)
    useless = idle.in_training(args, miners=MINERS, criteria=CRITERIA, unmined=of_batches())
    notes = [*resume.kept_epochs(args), *idle.notes(parser_of(method).given(argv), useless)]
    start.start_run(args, argv, notes)
    return args


def parse_evaluation(argv: Sequence[str]) -> Settings:
    """Settings of `evaluate_model.py`."""
    given = parser_of("evaluate").given(argv)
    values = {flag.name: flag.default for flag in EVALUATION} | given
    if values["protocol"]:
        if values["dataset"]:
            raise UserError(
                "--protocol is of the run's own data set, and --dataset names another; leave one of them out"
            )
        if not (values["query"] or values["export"]):  # which measure nothing
            values |= protocols.apply(values["protocol"], given)
    if not values["load_from_checkpoint"]:
        raise UserError("--load_from_checkpoint RUN_FOLDER [RUN_FOLDER ...] is needed: what to evaluate")
    values["eval_metric"] = measures(values["eval_metric"])
    values["query_bands"] = values["query_bands"].replace(",", " ").split() if values["query_bands"] else None
    check_bounds(EVALUATION, values)
    if values["dataset_type"] == AUTO:
        values["dataset_type"] = "all" if values["dataset"] else "test"
    if values["dataset"] and not values["source_path"]:
        raise UserError(f"--dataset {values['dataset']} needs --source_path DIR: the folder of the other archive")
    if values["gallery_split"] == values["dataset_type"]:
        values["gallery_split"] = None
    return Settings(values)


def start_evaluation(argv: Sequence[str] | None = None) -> Settings:
    """`parse_evaluation` of the command line, with notes on flags that do nothing beside the others."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse_evaluation(argv)
    runs = []
    for folder in args.load_from_checkpoint:
        with contextlib.suppress(UserError):  # `check_runs` says what is wrong with it
            runs.append(run_folder.read_args(Path(folder)))
    start.say(idle.notes(parser_of("evaluate").given(argv), idle.in_evaluation(args, runs)))
    return args


def of_run(folder: Path, evaluation: Settings) -> Settings:
    """Settings of a saved run with what an evaluation says differently."""
    own_queries = evaluation["query"] and not evaluation["dataset"]  # of other products than the run's own images
    changeable = CHANGEABLE if own_queries else (*CHANGEABLE, "boa_offset")
    flags = itertools.chain.from_iterable(GROUPS[title] for title in SHARED)
    run = resume.evaluated(folder, evaluation, changeable, flags, RESUMABLE)
    return other_archive(run, evaluation) if evaluation["dataset"] else run


def measures(names: list[str]) -> list[str]:
    """--eval_metric with every cut-off."""
    return [str(measure) for measure in metrics.expand_metrics(names, KS)]


def page() -> str:
    """docs/flags.md."""
    registries, root = (MINERS, CRITERIA, DATASETS), Path(__file__).parent
    training = readers((flag.name for flags in GROUPS.values() for flag in flags), registries, root, "train_*.py")
    evaluating = readers((flag.name for flag in EVALUATION), registries, root, "evaluate_model.py")
    parts = [(title, flags, training) for title, flags in GROUPS.items()]
    return flags_page.page([*parts, ("evaluate_model.py", EVALUATION, evaluating)], PRESETS)


if __name__ == "__main__":
    main_guard(print)(page())
