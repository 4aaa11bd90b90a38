"""Flags of CV4RS that have another name here, or another meaning: each is answered with what to give instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from utilities.errors import UserError

ANSWERS = {
    "backbone_wd": "--weight_decay is one for backbone and heads",
    "embedding_wd": "--weight_decay is one for backbone and heads",
    "embedding_lr": "give --lr, the rate of the heads (--backbone_lr is that of the backbone)",
    "is_beta_fixed": "give --margin_learn_beta no (of BIER, beta is always fixed, as in its paper)",
    "is_beta_classspecific": "give --margin_per_class yes",
    "baseline_batch_minner": "give --baseline_batch_miner",
    "dac_batch_minner": "give --dac_batch_miner",
    "diva_disc_batch_minner": "give --diva_batch_miner",
    "diva_inter_batch_minner": "give --diva_shared_miner",
    "diva_intra_batch_minner": "triplets within a class are drawn by intra_random; see --intra_random_with_replacement",
    "dac_loss": "its loss is the margin loss; see --margin_gamma, --margin_beta and --margin_nu",
    "diva_disc_loss": "its loss is the margin loss; see --margin_gamma, --margin_beta and --margin_nu",
    "diva_intra_loss": "its loss is the margin loss; see --margin_gamma, --margin_beta and --margin_nu",
    "diva_inter_loss": "its loss is the margin loss; see --margin_gamma, --margin_beta and --margin_nu",
    "diva_selfspecific_loss": "its loss is DaNCE against a queue; see the flags --diva_moco_...",
    "diva_features": "all four heads are trained; an alpha of 0 (--diva_alpha_shared, _intra, _nce) leaves one out",
    "diva_evaluation_weight": "give --diva_head_weights, in the order disc shared intra nce, which is not CV4RS's",
    "sndl_memory_momentum": "give --sndl_momenta, one value for each stage (0.5 0.8 0.9)",
    "bier_adversarial_weight": "the similarity has weight 1 within --bier_lambda_div, as in the released code of BIER; "
    "CV4RS multiplied it by 1e5",
}
OF_EVALUATION = {
    "save_path": "results are saved in the run folder, comparisons of several runs in --comparison_path",
}
LARGEST_SUM = 1e4  # of --bier_lambda_weight where the penalty is a sum: CV4RS's 1e5 is for a mean


def refuse(tokens: Iterable[str], answers: Mapping[str, str]) -> None:
    """Raise UserError for the first of the flags. tokens: the command line, `_` for `-`."""
    for token in tokens:
        name = token.partition("=")[0].removeprefix("--").lower()
        if token.startswith("--") and name in answers:
            raise UserError(f"--{name} is a flag of CV4RS and not of this project: {answers[name]}")
