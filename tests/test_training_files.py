"""Folders as training data: which kinds of pairs are taken, what is left out and named, and what validation shows of
aligned pairs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_sources import POINTS, write_pair

from retina_kp.core.files import write_text
from retina_kp.core.geometry import describe
from retina_kp.core.images import read_image, write_image
from retina_kp.data.annotation import fitted_model
from retina_kp.data.file_pairs import PairDataset
from retina_kp.data.layouts import load_layout
from retina_kp.data.training_files import FileOptions, load_files
from retina_kp.networks.checkpoints import load_network
from retina_kp.synthetic.pairs import write_aligned_folder
from retina_kp.synthetic.training_pairs import SyntheticOptions
from retina_kp.training.config import TrainConfig
from retina_kp.training.run_data import MAIN, REPLAY, RunFiles, ValidationSet, trained_on

EYES = 6


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Six aligned eyes in layout 1, in a folder whose name is not plain ASCII."""
    return write_aligned_folder(tmp_path_factory.mktemp("generated 眼底"), EYES, size_px=128)


@pytest.fixture
def eyes(drawn, tmp_path):
    """A copy that a test may spoil."""
    for path in drawn.rglob("*.png"):
        write_image(tmp_path / path.relative_to(drawn), read_image(path))
    return tmp_path


def kinds(split) -> set[tuple[str, str]]:
    return {(r.modality0, r.modality1) for r in split.train + split.validation}


def reasons(split) -> str:
    return "\n".join(p.reason for p in split.problems)


# ------------------------------------------------------------------ kinds of pairs


def test_by_default_the_fixed_image_is_a_CF_and_the_others_are_counted(drawn):
    split = load_files(FileOptions(str(drawn)))
    assert kinds(split) == {("CF", "FA"), ("CF", "OCT"), ("CF", "OCTA")}
    assert f"{EYES} OCT–FA pairs left out, since a CF is the fixed image" in reasons(split)
    rows = {row["kind"]: row for row in split.counts()}
    assert set(rows) == {"CF–FA", "CF–OCT", "CF–OCTA"}
    for row in rows.values():
        assert row["pairs to train on"] + row["pairs to validate on"] == EYES == row["with a vessel mask"]
        assert row["their eyes"] == row["pairs to train on"] and row["with clicked points"] == 0


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        (("cffa",), {("CF", "FA")}),
        (("cffa", "cfoct"), {("CF", "FA"), ("CF", "OCT")}),
        (("octfa",), {("OCT", "FA")}),
        (("all",), {("CF", "FA"), ("CF", "OCT"), ("CF", "OCTA"), ("OCT", "FA")}),
        (("cffa", "cffa"), {("CF", "FA")}),
    ],
)
def test_named_kinds_and_no_others_are_taken(drawn, mode, wanted):
    split = load_files(FileOptions(str(drawn), mode=mode))
    assert kinds(split) == wanted and "left out, since" not in reasons(split)


def test_a_kind_that_is_unknown_or_not_there_is_named(drawn, tmp_path):
    with pytest.raises(ValueError, match="files.mode: 'cfaf' is unknown; name some of cffa, cfoct"):
        FileOptions(str(drawn), mode=("cffa", "cfaf"))
    write_pair(tmp_path, "001_01"), write_pair(tmp_path, "002_01")
    split = load_files(FileOptions(str(tmp_path), mode=("cffa", "cfoct")))
    assert kinds(split) == {("CF", "FA")} and "for mode cfoct" in reasons(split)
    with pytest.raises(ValueError, match="no operation data for mode cfoct"):
        load_files(FileOptions(str(tmp_path), mode=("cfoct",)))


def test_all_kinds_of_pairs_and_all_phases_hold_out_the_same_eyes(eyes):
    whole = load_files(FileOptions(str(eyes)))
    (eyes / "1_N" / "1_N_fa.png").unlink()
    one = load_files(FileOptions(str(eyes), mode=("cffa",)))
    assert not {r.eye_id for r in one.validation} & {r.eye_id for r in whole.train}
    first, second = (RunFiles.of(TrainConfig(files=FileOptions(str(eyes), share=1.0), seed=seed)) for seed in (0, 7))
    assert first.ids == second.ids and first.files.validation


def test_a_set_of_any_name_takes_one_mode(tmp_path):
    write_pair(tmp_path, "001_01"), write_pair(tmp_path, "002_01")
    clinic = (tmp_path / "operation_pre_filtered_cffa").rename(tmp_path / "clinic")
    assert len(load_files(FileOptions(str(clinic), "operation", ("cfoct",))).annotation) == 2
    with pytest.raises(ValueError, match="do not say which kind of pairs they hold, and 2 were named; name one mode"):
        load_files(FileOptions(str(clinic), "operation", ("cffa", "cfoct")))


# ------------------------------------------------------------------ pictures that teach nothing


def test_black_constant_and_unreadable_pictures_are_named_and_skipped(eyes):
    write_image(eyes / "1_N" / "1_N_fa.png", np.zeros((128, 128), np.uint8))
    write_image(eyes / "2_N" / "2_N_cf.png", np.full((128, 128, 3), 90, np.uint8))
    broken = (eyes / "3_N" / "3_N_fa.png").read_bytes()
    (eyes / "3_N" / "3_N_fa.png").write_bytes(broken[: len(broken) // 2])
    split = load_files(FileOptions(str(eyes), mode=("cffa", "cfoct")))
    named = {r.pair_id for r in split.train + split.validation}
    assert named == {
        "cffa_4_N",
        "cffa_5_N",
        "cffa_6_N",
        "cfoct_1_N",
        "cfoct_3_N",
        "cfoct_4_N",
        "cfoct_5_N",
        "cfoct_6_N",
    }
    assert "cffa_1_N: its image 1_N_fa.png is of one gray level (0.00); left out" in reasons(split)
    assert "cffa_2_N: its image 2_N_cf.png is of one gray level (0.35); left out" in reasons(split)
    assert "3_N_fa.png" in reasons(split) and {p.pair for p in split.problems} == {
        "cffa_1_N",
        "cffa_2_N",
        "cffa_3_N",
        "cfoct_2_N",
    }


def test_pairs_without_a_mask_are_skipped_where_others_have_one(eyes):
    (eyes / "1_N" / "1_N_seg.png").unlink()
    write_image(eyes / "2_N" / "2_N_seg.png", np.zeros((128, 128), np.uint8))
    split = load_files(FileOptions(str(eyes), mode=("cffa",)))
    assert {r.eye_id for r in split.train + split.validation} == {"3_N", "4_N", "5_N", "6_N"}
    assert "cffa_1_N: has no usable vessel mask, which other pairs have, and so no labels; left out" in reasons(split)
    assert "cffa_2_N: its vessel mask 2_N_seg.png shows no vessel; left out" in reasons(split)
    for path in eyes.glob("*/*_seg.png"):
        path.unlink()
    everybody = load_files(FileOptions(str(eyes), mode=("cffa",)))
    assert len(everybody.train) + len(everybody.validation) == EYES, "then a vessel filter stands in for all"


# ------------------------------------------------------------------ validation


def test_aligned_pairs_are_validated_turned_and_recoloured(drawn):
    """As they lie, a network that knows nothing finds the identity."""
    split = load_files(FileOptions(str(drawn), mode=("cffa",)))
    options = FileOptions(str(drawn), size_px=128)
    shown = ValidationSet.of_files(split.validation, options, pairs=12)
    assert len(shown) == 12 and shown.kind == "files"
    turns = [describe(H.numpy(), (128, 128)) for batch in shown.batches for H in batch["H_0to1"]]
    assert np.ptp([turn.angle_deg for turn in turns]) > 20 and np.ptp([turn.scale for turn in turns]) > 0.2
    again = ValidationSet.of_files(split.validation, options, pairs=12)
    assert torch.equal(again.batches[0]["image1"], shown.batches[0]["image1"]), "the same ones after every epoch"
    as_stored = PairDataset(split.validation, 128).item(0)["image0"]
    assert not any(torch.allclose(image0, as_stored, atol=0.1) for batch in shown.batches for image0 in batch["image0"])
    knows, _ = load_network("lite")
    torch.manual_seed(0)
    fresh = type(knows)()
    learned, ignorant = (shown.evaluate(network)["gt_matched_right"] for network in (knows, fresh))
    assert learned > 0.3 > ignorant + 0.1, "what has been learned shows, and the identity does not help"


def test_clicked_pairs_are_validated_as_they_lie(tmp_path):
    for eye in range(5):
        write_pair(tmp_path, f"{eye:03d}_01")
    split = load_files(FileOptions(str(tmp_path)))
    shown = ValidationSet.of_files(split.validation, FileOptions(str(tmp_path), size_px=64), pairs=24)
    assert len(shown) == len(split.validation)
    assert all(abs(describe(H.numpy(), (64, 64)).angle_deg) < 0.5 for batch in shown.batches for H in batch["H_0to1"])


def test_a_run_is_judged_by_what_it_trains_on(drawn, tmp_path):
    for eye in range(3):
        write_pair(tmp_path, f"{eye:03d}_01")
    data = SyntheticOptions(size_px=64, frames_per_retina=1)
    real, aligned = FileOptions(str(tmp_path), size_px=64), FileOptions(str(drawn), mode=("cffa",), size_px=64)
    base = TrainConfig(phase="sim2real", batch_size=5, validation_pairs=2, data=data)
    cases = {
        "drawn alone": (replace(base, phase="pke"), {MAIN: "synthetic"}),
        "files alone": (replace(base, phase="pke", files=replace(aligned, share=1.0)), {MAIN: "files"}),
        "real, drawn replay": (replace(base, files=replace(real, share=0.8)), {MAIN: "files", REPLAY: "synthetic"}),
        "real, replayed files": (
            replace(base, files=replace(real, share=0.8), replay=replace(aligned, share=0.2)),
            {MAIN: "files", REPLAY: "files"},
        ),
        "real alone": (replace(base, files=replace(real, share=1.0)), {MAIN: "files", REPLAY: "synthetic"}),
        "real alone, watched": (
            replace(base, files=replace(real, share=1.0), replay=aligned),
            {MAIN: "files", REPLAY: "files"},
        ),
    }
    for name, (config, wanted) in cases.items():
        found = RunFiles.of(config)
        assert {p: v.kind for p, v in found.validation_sets(config).items()} == wanted, name
        batch = found.source(config).batch(0, 5)
        files = sum(m != "" and not m[0].isdigit() for m in batch["sample_ids"])
        assert files == {"drawn alone": 0, "files alone": 5, "real, drawn replay": 4}.get(name, 5), name
        replayed = sum(m.startswith("replayed ") for m in batch["sample_ids"])
        assert replayed == (1 if name == "real, replayed files" else 0), name
    assert trained_on(cases["real alone"][0]) == trained_on(cases["files alone"][0]) == (MAIN,)
    assert trained_on(cases["real, replayed files"][0]) == trained_on(cases["real, drawn replay"][0]) == (MAIN, REPLAY)


def test_changed_replay_is_told_by_name(drawn, eyes):
    config = TrainConfig(
        phase="sim2real",
        data=SyntheticOptions(size_px=64, frames_per_retina=1),
        batch_size=5,
        files=FileOptions(str(drawn), mode=("cffa",), share=0.8, size_px=64),
        replay=FileOptions(str(eyes), mode=("cffa",), share=0.2, size_px=64),
    )
    before = RunFiles.of(config)
    assert before.changes(before.ids) == ""
    (eyes / "4_N" / "4_N_fa.png").unlink()
    assert RunFiles.of(config).changes(before.ids) == "replay: gone: cffa_4_N"


# ------------------------------------------------------------------ clicked points


def test_few_points_stay_a_similarity_and_the_report_says_so(tmp_path):
    rng = np.random.default_rng(0)
    many = np.concatenate([POINTS, POINTS[::-1] * [0.9, 0.8] + 5])
    write_pair(tmp_path, "001_01", POINTS[:5] + rng.normal(0, 1, (5, 2)), POINTS[:5])
    write_pair(tmp_path, "002_01", many * [1.1, 0.9] + rng.normal(0, 0.2, many.shape) - [5, 0], many)
    rows = {row["pair_id"]: row for row in load_files(FileOptions(str(tmp_path))).annotation}
    assert rows["cffa_001_01"]["model"] == "similarity" and rows["cffa_001_01"]["points"] == 5
    assert rows["cffa_002_01"]["model"] != "similarity"
    assert [fitted_model(r)[0] for r in load_layout(tmp_path).records] == [row["model"] for row in rows.values()]


def test_a_table_may_call_the_transform_T_0to1(drawn, tmp_path):
    record, H = load_layout(drawn, mode="cffa").records[0], "0.9 -0.1 3 0.1 0.9 -2 0 0 1"
    head = "pair_id,eye_id,modality0,modality1,image0,image1"
    row = f"a,e,CF,FA,{record.image0},{record.image1}"
    write_text(tmp_path / "pairs.csv", f"{head},T_0to1\n{row},{H}\n")
    (found,) = load_layout(tmp_path).records
    assert np.allclose(found.H_0to1, np.reshape([float(v) for v in H.split()], (3, 3)))
    write_text(tmp_path / "pairs.csv", f"{head},H_0to1,T_0to1\n{row},{H},1 0 0 0 1 0 0 0 1\n")
    assert "H_0to1 and T_0to1 differ" in load_layout(tmp_path).problems[0].reason
