#!/usr/bin/env bash
# trec_eval, through pytrec_eval, ranks by single precision and settles ties by the document's name, backwards.
#
# Versions:   pytrec_eval-terrier 0.5.11, numpy 2.4.6
# Behaviour:  scores that differ by less than a float32 can hold (0.9 and 0.9 - 1e-9) are a tie; among ties the larger
#             name comes first, as text: "2" before "10" before "1". The order given, and the better score, do not
#             count.
# Surprise:   the scores are Python floats, the best image is first in the run and alone in its score, and yet its
#             reciprocal rank is 1/3.
# Cost:       cosine similarities of near-duplicates (neighbouring or augmented tiles) lie within 1e-7 of each other;
#             an oracle for one's own measures then disagrees, by an amount that depends on how images are named.
#             Handing over -rank as the score avoids it.
# Source:     trec_eval keeps a result's sim as float; form_res_rels.c sorts by sim, then by docno descending.
# Seen:       reciprocal rank 0.3333; with scores 0.9, 0.8, 0.7 it is 1.0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pytrec_eval-terrier==0.5.11 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import pytrec_eval

evaluator = pytrec_eval.RelevanceEvaluator({"query": {"1": 1}}, {"recip_rank"})


def reciprocal_rank(scores):
    return evaluator.evaluate({"query": scores})["query"]["recip_rank"]


near = {"1": 0.9, "10": 0.9 - 1e-9, "2": 0.9 - 2e-9}
assert max(near, key=near.get) == "1", "the relevant image has the best score"
print(reciprocal_rank(near), reciprocal_rank({"1": 0.9, "10": 0.8, "2": 0.7}))
assert abs(reciprocal_rank(near) - 1 / 3) < 1e-6
assert reciprocal_rank({"1": 0.9, "10": 0.8, "2": 0.7}) == 1
assert abs(reciprocal_rank({"1": 0.9, "10": 0.9 - 1e-9, "0": 0.1}) - 1 / 2) < 1e-6
PYTHON
