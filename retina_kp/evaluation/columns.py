"""What every name in metrics.json and pairs.csv means, table by table; metrics.json carries these texts, and a test
holds them complete."""

from __future__ import annotations

PAIR_COUNTS = {
    "pairs": "pairs with truth, the denominator of every share",
    "eyes": "eyes among them, the units of the intervals",
}
METHOD = {
    "method": "what registered; …, oracle keypoints: the oracle of that method (GT alignment): its descriptors read at the true points of "
    "both images (with a matrix alone: at the keypoints of the fixed image and where the matrix takes them), matched, and its model fitted "
    "to the matches, the moving image drawn in the fixed frame by the truth, as it is once the search has ended; annotation fit: the "
    "annotation's own transform, the given matrix or else the one fitted to its points, judged at its points (with a matrix alone at the "
    "moving image's corners, where it is right by definition); annotation residual is the floor: what clicked points leave open (distance "
    "of each from where the others put it, median of a pair, px of the fixed image at 768); computed points leave nothing open and are not "
    "in it"
}
KIND = {"kind": "modalities, fixed-moving; all: every pair together"}
SCORES = {
    "acceptable": "share with median error at most 20 px and largest at most 50 px (SuperRetina's rule)",
    "inaccurate": "share with a transform that is not acceptable",
    "wrong_accepted": "part of inaccurate that the method called good: the worst outcome",
    "failed": "share without a transform, refused ones included",
    "refused": "part of failed that the method itself declined to answer",
    "sr_me": "share with mean error at most 5 px at 512",
    "sr_mae": "share with largest error at most 10 px at 512",
    "strict": "share with both",
    "auc25": "mean over i = 1 to 25 of the share with mean error below i px at 768",
    "auc25_fire": "the same with errors at 2912 px, as in FIRE's tables",
    "auc@5": "area under the recall curve up to 5 px, over 5",
    "auc@10": "the same up to 10 px",
    "auc@20": "the same up to 20 px",
    "median_px": "median over pairs of the mean error, px at 768; infinite when half of them failed",
    "inlier_rate": "MIR: mean share of a pair's matches that lie within 5 px, at 768, of the truth; refused pairs count with the matches "
    "they had, with none as 0; a fourth number counts the pairs. Of ours, whose matches are those of the last, guided pass; of true "
    "keypoints all mutual matches. Matching score and repeatability need every detection, which a registration does not keep: training "
    "validates them (history.csv)",
}
TABLES = {
    "metrics.json": {
        "schema": "name and version of this form",
        "columns": "these explanations",
        "figure": "how a figure with its interval is written",
        "normalisation": "longer side of the fixed image, px, that errors are given at; at FIRE's length; the factor of each pair",
        "about": "what was measured with what",
        "pairs": "evaluated pairs by kind",
        "pairs_with_truth": "those that could be judged",
        "annotation_residual_px": "the floor: pairs with clicked points and with computed ones, median and largest residual of the former",
        "methods": "one line per method and kind of pair, as taken",
        "differences": "the first method minus each other one",
        "vessels": "Dice of vessel maps",
        "fire": "FIRE's own protocol, for FIRE alone",
        "stress": "one line per method, factor and value",
        "reliability": "confidence of the first method against truth, pairs as taken",
    },
    "about": {
        "versions": "of this package, its git commit where known, and what it computes with",
        "date": "local time and its distance from UTC",
        "methods": "name, model fitted and first twelve digits of the SHA-256 of the weights, of each",
        "data": "name of the data set's folder; empty where names are hidden",
        "layout": "shape of the data set",
        "mode": "kind of pair that was asked for, empty: all",
        "split": "split that was asked for, empty: all",
        "pairs": "pairs to evaluate",
        "eyes": "eyes among them",
        "aside": "usable pairs that mode and split leave aside",
        "model": "transform that ours fit",
        "accept_confidence": "answers with less count as given with a warning",
        "seed": "of the intervals",
        "stresses": "states of each moving image",
        "missing": "methods that could not run, and why",
        "left_out": "pairs that could not be used, and why",
        "incomplete": "what is amiss with pairs that were used",
    },
    "methods": METHOD | KIND | PAIR_COUNTS | SCORES | {"seconds": "median per pair, longer when many run side by side"},
    "differences": KIND
    | {
        "against": "the other method; figures are the first one's minus its",
        "pairs": "pairs that both saw, as taken",
        **{name: SCORES[name] for name in ("acceptable", "wrong_accepted", "auc25", "auc@5")},
        "closer": "pairs on which the first method's mean error is the smaller one",
        "farther": "pairs on which it is the larger one",
    },
    "vessels": METHOD
    | {
        "pairs": "pairs as taken, with and without truth",
        "compared": "those that dice is the mean of: where truths exist, pairs that the method and the annotation fit both have",
        "dice": "mean Dice of the two vessel maps on the overlap; a fourth number counts the pairs",
        "dice_fit": "the same of the annotation fit, on the same pairs",
    },
    "fire": METHOD
    | {
        "pairs": "of FIRE; published tables have 133",
        **{name: f"AUC25 at 2912 px in category {name}" for name in "SPA"},
        **{f"{name}_pairs": f"pairs in category {name}" for name in "SPA"},
        "mAUC": "plain mean over the three categories; null where one is missing",
        "all": "AUC25 at 2912 px over all pairs in one pot",
    },
    "stress": METHOD
    | {
        "factor": "what was done to the moving image; one factor at a time",
        "value": "how much of it, in the units of retina_kp.evaluation.stress.Stress",
        "state": "both in words",
    }
    | PAIR_COUNTS
    | SCORES,
    "reliability": {
        "from": "lower end of a bin of confidence",
        "to": "upper end",
        "n": "answers in it, refused ones included as they would have been",
        "confidence": "their mean confidence",
        "right": "share that was acceptable; of refused ones, with mean error at most 20 px",
        "low": "exact binomial limit of it for as many trials as there are eyes",
        "high": "the upper one",
    },
    "pairs.csv": {
        "pair": "id, or number where names are hidden",
        "eye": "id, or number",
        **KIND,
        "category": "FIRE's S, P or A",
        **METHOD,
        "stress": "what was done to the moving image",
        "outcome": "acceptable, inaccurate (warned of), wrongly accepted, refused, failed; answered: no truth to judge by",
        "status": "the method's own word",
        "confidence": "in [0, 1]; empty where the method gives none",
        "points_mean_px": "mean over the truth's points of the error, px of the fixed image at 768; inf where one lies behind the horizon",
        "points_median_px": "median over the points",
        "points_max_px": "largest",
        "points_mean_px_fire": "the mean at 2912 px",
        "annotation_fit_mean_px": "mean error of the annotation's own transform at its points, px at 768",
        "oracle_mean_px": "mean error of this method with true keypoints, as taken; empty where that failed, and for others than ours",
        "annotation_residual_px": "leave-one-out residual of clicked points, px at 768; empty where they were computed",
        "truth": "points (clicked or computed), matrix, or none",
        "inlier_rate": "share of the matches that lie within 5 px, at 768, of the truth",
        "true_turn_deg": "true turn of the altered moving image against the fixed one, 0 to 180°",
        "true_scale": "true scale, altered moving image → fixed one",
        "dice": "of the two vessel maps on the overlap, pairs as taken",
        "seconds": "for this registration",
    },
}
