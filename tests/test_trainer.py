"""Training runs on tiny networks: the loss falls, interruptions leave no trace, other configurations and broken losses
are refused."""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch

from retina_kp.cli.train import run_recipe
from retina_kp.core import compute as devices
from retina_kp.core.compute import worker_pool
from retina_kp.core.config import from_dict
from retina_kp.core.geometry import sample_map
from retina_kp.data.training_files import FileOptions
from retina_kp.networks.checkpoints import load_network, read_metadata
from retina_kp.synthetic.training_pairs import SyntheticOptions, SyntheticPairs
from retina_kp.training import processes
from retina_kp.training.config import TrainConfig
from retina_kp.training.losses import get_phase
from retina_kp.training.objective import DetectorWatch, TrainingStopped
from retina_kp.training.pke import PkeOptions
from retina_kp.training.run_data import ValidationSet
from retina_kp.training.trainer import Trainer
from retina_kp.viz.training import keep_keypoint_figures

DATA = SyntheticOptions(size_px=64)
TINY = TrainConfig(
    network_options={"width": 0.25, "descriptor_dim": 16},
    epochs=2,
    steps_per_epoch=2,
    batch_size=2,
    learning_rate=3e-3,
    rise_steps=1,
    pool_size=2,
    extra_points=16,
    label_sigma_px=3.0,
    validation_pairs=2,
    data=DATA,
)
FILES = {"config.json", "history.csv", "metrics.json", "checkpoint.safetensors", "state.pt", "figures"}


class PowerCut(SyntheticPairs):
    """Data that is interrupted once, at a given batch."""

    def __init__(self, at: int, config: TrainConfig):
        super().__init__(config.seed, config.pool_size, config.data)
        self.at = at

    def batch(self, index: int, batch_size: int, strength: float = 1.0) -> dict:
        if index == self.at:
            self.at = -1
            raise KeyboardInterrupt
        return super().batch(index, batch_size, strength)


def batch_of(trainer: Trainer, number: int) -> dict:
    """A batch as the run has it."""
    c = trainer.config
    return trainer.data.batch(number, c.batch_size, c.strength(number // c.micro_batches))


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trainer.network.state_dict().items()}


def equal(a: dict, b: dict) -> bool:
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


def figures(trainer: Trainer) -> list[str]:
    """The history without its timing, as text, so that NaN equals NaN."""
    timing = ("seconds_per_step", "waiting_share")
    return [repr({k: v for k, v in row.items() if k not in timing}) for row in trainer.history]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Trainer:
    trainer = Trainer(TINY, tmp_path_factory.mktemp("run") / "a", on_validation=keep_keypoint_figures)
    trainer.fit()
    return trainer


# ------------------------------------------------------------------ learning


def test_two_epochs_lower_the_loss_on_a_fixed_batch(tmp_path):
    trainer = Trainer(replace(TINY, steps_per_epoch=15, validation_pairs=0), tmp_path)
    batch = batch_of(trainer, 1000)
    before = trainer.objective(trainer.network, batch, 1000).total.item()
    trainer.fit()
    assert trainer.objective(trainer.network, batch, 1000).total.item() < before - 0.1


@pytest.mark.parametrize(
    ("phase", "weights", "sum_of"),
    [
        ("warmup", {}, {"loss_det": 1.0, "loss_des": 1.0}),
        ("geometric", {}, {"loss_det": 1.0, "loss_des": 1.0, "loss_geo": 0.5, "loss_mov": 0.5}),
        ("geometric", {"loss_mov": 0.0, "loss_geo": 0.25}, {"loss_det": 1.0, "loss_des": 1.0, "loss_geo": 0.25}),
    ],
)
def test_a_phase_weighs_its_losses_and_computes_no_others(tmp_path, phase, weights, sum_of):
    terms = Trainer(replace(TINY, phase=phase, weights=weights), tmp_path).step()
    assert {name for name in terms if name.startswith("loss_")} == set(sum_of)
    assert terms["total"] == pytest.approx(sum(weight * terms[name] for name, weight in sum_of.items()), rel=1e-5)


def test_triplet_runs_too(tmp_path):
    trainer = Trainer(replace(TINY, descriptor_loss="triplet", validation_pairs=0), tmp_path)
    assert math.isfinite(trainer.step()["loss_des"])


def test_random_points_lie_in_the_field_of_view(finished):
    batch = batch_of(finished, 0)
    points = finished.objective.extra_points(batch, torch.Generator().manual_seed(0))
    seen = torch.isfinite(points).all(-1)
    assert seen.any() and (sample_map(batch["valid0"].float(), points)[seen] > 0.99).all()


def test_learning_rate_rises_and_falls(tmp_path):
    rate = Trainer(
        replace(TINY, epochs=1, steps_per_epoch=100, rise_steps=10, final_rate_ratio=0.1), tmp_path
    ).learning_rate
    assert (
        rate(0) == pytest.approx(3e-4) and rate(50) == pytest.approx(3e-3 * 0.55) and rate(100) == pytest.approx(3e-4)
    )


def test_curriculum_widens_the_transform(tmp_path):
    narrow, wide = (
        batch_of(Trainer(replace(TINY, curriculum_steps=n, curriculum_start=0.0), tmp_path), 0) for n in (10, 0)
    )
    eye = torch.eye(3, dtype=torch.float64)
    assert torch.allclose(narrow["H_0to1"], eye.expand(2, 3, 3)) and not torch.allclose(
        wide["H_0to1"], eye.expand(2, 3, 3)
    )


# ------------------------------------------------------------------ files


def test_all_files_are_there_and_no_half_written_ones(finished):
    assert {p.name for p in finished.run_dir.iterdir()} == FILES


def test_figures_are_written(finished):
    names = {p.name for p in (finished.run_dir / "figures").iterdir() if p.stat().st_size > 1000}
    assert names == {"fixed_kps.png", "moving_kps.png", "vessel_keypoints_extracted.png"}


def test_history_has_a_row_per_epoch(finished):
    rows = list(csv.DictReader((finished.run_dir / "history.csv").open()))
    assert [(r["epoch"], r["step"]) for r in rows] == [("1", "2"), ("2", "4")]
    named = {
        "loss_det",
        "loss_des",
        "labels0",
        "waiting_share",
        "gt_success",
        "det_success",
        "repeatability",
        "mean_det0",
        "learning_rate",
    }
    assert named <= set(rows[0])


def test_config_file_gives_the_config_back(finished):
    assert from_dict(TrainConfig, json.loads((finished.run_dir / "config.json").read_text())) == TINY


def test_checkpoint_holds_the_trained_network(finished):
    path = finished.run_dir / "checkpoint.safetensors"
    network, _ = load_network(path)
    assert equal(network.state_dict(), weights(finished))
    assert (read_metadata(path)["phase"], read_metadata(path)["step"]) == ("warmup", 4)


# ------------------------------------------------------------------ interruptions


def test_an_interruption_between_epochs_leaves_no_trace(finished, tmp_path):
    def stop(history):
        raise KeyboardInterrupt

    first = Trainer(TINY, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        first.fit(stop)
    second = Trainer(TINY, tmp_path)
    second.fit()
    assert equal(weights(second), weights(finished)) and figures(second) == figures(finished)


@pytest.mark.parametrize("at", [1, 3])
def test_an_interruption_within_an_epoch_leaves_no_trace(finished, tmp_path, at):
    trainer = Trainer(TINY, tmp_path, data=PowerCut(at, TINY))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    trainer.fit()  # the same object again, as in a notebook
    assert equal(weights(trainer), weights(finished)) and figures(trainer) == figures(finished)


def test_triplet_training_resumes_with_its_random_numbers(tmp_path):
    config = replace(TINY, descriptor_loss="triplet", validation_pairs=0)
    whole = Trainer(config, tmp_path / "a")
    whole.fit()
    broken = Trainer(config, tmp_path / "b", data=PowerCut(2, config))
    with pytest.raises(KeyboardInterrupt):
        broken.fit()
    torch.rand(7)
    again = Trainer(config, tmp_path / "b")
    again.fit()
    assert equal(weights(again), weights(whole))


def test_a_finished_run_is_not_trained_again(finished):
    again = Trainer(TINY, finished.run_dir)
    assert len(again.fit()) == 2 and equal(weights(again), weights(finished))


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_used_only_where_the_device_computes_in_it(tmp_path, monkeypatch, native):
    monkeypatch.setattr(processes, "bfloat16_is_fast", lambda device: native)
    config = replace(TINY, precision="bf16", validation_pairs=0, epochs=1, steps_per_epoch=1)
    trainer = Trainer(config, tmp_path)
    kind = torch.bfloat16 if native else torch.float32
    assert computed_in(trainer) == kind
    trainer.fit()
    monkeypatch.setattr(processes, "bfloat16_is_fast", lambda device: not native)
    monkeypatch.setattr(processes, "promises_bfloat16", lambda device: True)
    assert computed_in(Trainer(config, tmp_path)) == kind, (
        "a begun run goes on as it was begun, whatever a probe says later"
    )
    monkeypatch.setattr(processes, "promises_bfloat16", lambda device: False)
    assert computed_in(Trainer(config, tmp_path)) == (torch.float32 if native else torch.bfloat16), (
        "but for a machine of another kind"
    )


def computed_in(trainer: Trainer) -> torch.dtype:
    with trainer.accelerator.autocast():
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def test_bfloat16_is_fast_only_where_the_cpu_promises_it_and_it_gains(monkeypatch):
    cpu = torch.device("cpu")
    for promised, gains in ((True, True), (True, False), (False, True)):
        monkeypatch.setattr(devices, "_fast", {})
        monkeypatch.setattr(devices, "promises_bfloat16", lambda device, promised=promised: promised)
        monkeypatch.setattr(devices, "_bfloat16_gains", lambda gains=gains: gains)
        assert devices.bfloat16_is_fast(cpu) == (promised and gains)
    monkeypatch.undo()
    for fast in (True, False):  # a worker computes as the process that started it
        monkeypatch.setattr(devices, "_fast", {"cpu": fast})
        with worker_pool(1) as pool:
            assert pool.submit(devices.bfloat16_is_fast, cpu).result() == fast
    assert devices._bfloat16_gains() in (True, False)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 1e-3}, "learning_rate: 0.003 → 0.001"),
        ({"data": replace(DATA, size_px=96)}, "data.size_px: 64 → 96"),
    ],
)
def test_another_configuration_is_refused_with_the_key(finished, changes, words):
    with pytest.raises(ValueError, match=words):
        Trainer(replace(TINY, validation_pairs=2, **changes), finished.run_dir).fit()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": {"loss_det": -1.0}}, "weights.loss_det: takes a number from 0"),
        ({"weights": {"loss_des": math.nan}}, "weights.loss_des: takes a number from 0"),
        ({"weights": {"loss_det": 0.0, "loss_des": 0.0}}, "one loss at least must count"),
        ({"weights": {"loss_geo": 1.0}}, "phase 'warmup' has no such loss; it has loss_det, loss_des"),
        ({"phase": "pke"}, "frames_per_retina of 1 or more: PKE has to see each sample again"),
        ({"replay": FileOptions("x", share=0.2, size_px=64)}, "replay stands beside files"),
        (
            {"files": FileOptions("x", share=0.8, size_px=64), "replay": FileOptions("y", share=0.3, size_px=64)},
            "more than 1",
        ),
        ({"files": FileOptions("x", share=0.8, size_px=96), "batch_size": 5}, "must be equal: they are in one batch"),
        (
            {"files": FileOptions("x", share=0.8, size_px=64), "batch_size": 4},
            "0.2 of 4 pairs leaves updates without .* be 5 or more",
        ),
        ({"files": FileOptions("x", share=0.1, size_px=64), "batch_size": 3, "micro_batches": 3}, "be 10 or more"),
    ],
)
def test_settings_that_cannot_train_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **changes)


def test_replay_may_be_shared_out_over_the_batches_of_an_update():
    assert replace(TINY, files=FileOptions("x", share=0.8, size_px=64), batch_size=1, micro_batches=5)


def test_a_weight_of_nil_leaves_its_loss_out(tmp_path):
    trainer = Trainer(replace(TINY, weights={"loss_det": 0.0}), tmp_path)
    terms = trainer.step()
    assert terms["total"] == pytest.approx(terms["loss_des"]) and all(
        p.grad is not None for p in trainer.network.parameters()
    )


def test_a_loss_that_is_not_finite_stops_the_run_before_it_spoils_the_weights(tmp_path):
    trainer = Trainer(TINY, tmp_path)
    trainer.network.detect.bias.data.fill_(torch.nan)
    kept = trainer.network.level1[0][0].weight.clone()
    with pytest.raises(
        TrainingStopped, match="the loss is nan at step 0. Begin .* a lower learning_rate than 0.003, say 0.001"
    ):
        trainer.step()
    assert torch.equal(trainer.network.level1[0][0].weight, kept)


def test_a_gradient_that_is_not_finite_stops_it_too(tmp_path):
    trainer = Trainer(TINY, tmp_path)
    trainer.network.detect.weight.register_hook(lambda gradient: gradient * torch.inf)
    kept = trainer.network.level1[0][0].weight.clone()
    with pytest.raises(TrainingStopped, match="the gradient is not finite at step 0"):
        trainer.step()
    assert torch.equal(trainer.network.level1[0][0].weight, kept)


def test_a_detector_gone_silent_stops_the_run_within_the_epoch_and_the_last_good_checkpoint_stays(tmp_path):
    """It answers as it should for an epoch, and then next to nothing."""
    config = replace(TINY, epochs=2, steps_per_epoch=40, batch_size=1, validation_pairs=0, learning_rate=1e-5)
    trainer, step = Trainer(config, tmp_path), Trainer.step

    def silenced():
        if trainer.step_index == 45:
            trainer.network.detect.bias.data.fill_(-20.0)
        return step(trainer)

    trainer.step = silenced
    with pytest.raises(
        TrainingStopped, match="gone silent: at step 6[0-9] .* lower learning_rate.*is usable: give it as init_from"
    ):
        trainer.fit()
    assert read_metadata(tmp_path / "checkpoint.safetensors")["step"] == 40
    network, _ = load_network(tmp_path / "checkpoint.safetensors")
    assert network.detect.bias.item() > -5
    again = Trainer(config, tmp_path)
    assert again.resume() and again.step_index == 40


def test_nothing_silent_is_saved_at_the_end_of_an_epoch(tmp_path):
    config = replace(TINY, epochs=1, steps_per_epoch=6, batch_size=8, validation_pairs=0)  # some pairs show no junction
    trainer, step = Trainer(config, tmp_path), Trainer.step

    def silenced():
        if trainer.step_index == 3:
            trainer.network.detect.bias.data.fill_(-20.0)
        return step(trainer)

    trainer.step = silenced
    with pytest.raises(TrainingStopped, match="gone silent: at step 6"):
        trainer.fit()
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_pairs_without_labels_do_not_count_as_silence():
    watch = DetectorWatch(TINY)
    assert not any(watch.verdict(step, 1e-9, labels=0.0) for step in range(1, 100))
    assert any(watch.verdict(step, 1e-9, labels=5.0) for step in range(101, 130))


def test_a_users_own_batches_may_call_the_transform_T_0to1(tmp_path):
    class Own(SyntheticPairs):
        def batch(self, index: int, batch_size: int, strength: float = 1.0) -> dict:
            found = super().batch(index, batch_size, strength)
            return found | {"T_0to1": found.pop("H_0to1")}

    (mine, ours) = (Trainer(TINY, tmp_path / name) for name in "ab")
    mine.data = Own(TINY.seed, TINY.pool_size, TINY.data, TINY.pool_seed)
    assert mine.step() == ours.step()


def test_weights_of_another_network_are_refused(finished, tmp_path):
    start = str(finished.run_dir / "checkpoint.safetensors")
    with pytest.raises(ValueError, match="'lite'.*'superretina'"):
        Trainer(replace(TINY, network="superretina", network_options={}, init_from=start), tmp_path)


def test_a_begun_run_goes_on_without_the_weights_that_it_began_with(finished, tmp_path):
    start = tmp_path / "start.safetensors"
    start.write_bytes((finished.run_dir / "checkpoint.safetensors").read_bytes())
    config = replace(TINY, init_from=str(start), epochs=1)
    Trainer(config, tmp_path / "run").fit()
    start.unlink()
    assert Trainer(config, tmp_path / "run").resume()
    with pytest.raises(FileNotFoundError):
        Trainer(config, tmp_path / "other")


def test_training_starts_from_given_weights(finished, tmp_path):
    start = str(finished.run_dir / "checkpoint.safetensors")
    assert equal(weights(Trainer(replace(TINY, init_from=start), tmp_path)), weights(finished))


def test_unknown_phase_and_recipe_are_refused(tmp_path):
    with pytest.raises(ValueError, match="warmup, geometric"):
        get_phase("warm")
    with pytest.raises(ValueError, match="lite"):
        run_recipe("heavy", tmp_path)


# ------------------------------------------------------------------ validation


def test_validation_is_deterministic_and_leaves_the_mode_alone(finished):
    validation = ValidationSet.synthetic(3, DATA, batch_size=2)
    finished.network.train()
    first = validation.evaluate(finished.network)
    assert repr(first) == repr(validation.evaluate(finished.network)) and finished.network.training
    assert len(validation.batches) == 2


def test_validation_never_shows_training_pairs(finished):
    shown = ValidationSet.synthetic(2, DATA).batches[0]["image0"]
    assert not torch.equal(shown, batch_of(finished, 0)["image0"])


def test_validation_tells_what_pke_would_mine():
    """By a content ratio of its own, whatever training asks for."""
    network, _ = load_network("lite")
    network.eval()
    data, options = SyntheticOptions(size_px=160, annotated_share=0.2), PkeOptions(0.1, 0.1, content_ratio_max=0.01)
    found, same, none = (
        ValidationSet.synthetic(4, data, mining=replace(options, **changed)).evaluate(network)
        for changed in ({}, {"content_ratio_max": 1.0}, {"pke_min_probability": 1.0})
    )
    assert found["would_mine"] == same["would_mine"] > 0.5 and found["would_mine_precision"] > 0.5
    assert none["would_mine"] == 0 and math.isnan(none["would_mine_precision"])
    assert not any(key.startswith("would") for key in ValidationSet.synthetic(2, DATA).evaluate(network))
