"""Oracles for configuration and checkpoints: what goes to disk comes back, and what does not fit is named."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from retina_kp.core.config import differences, from_dict, to_dict
from retina_kp.core.files import in_project
from retina_kp.networks import NETWORKS, build_network, for_inference
from retina_kp.networks.checkpoints import find_weights, load_network, read_metadata, save_network
from retina_kp.registration.confidence import DEFAULT_CALIBRATION, checked
from retina_kp.training.config import TrainConfig


@dataclass(frozen=True)
class Inner:
    radius_px: float = 4.0
    range_deg: tuple[float, float] = (18.0, 60.0)


@dataclass(frozen=True)
class Outer:
    name: str
    epochs: int = 2
    half: bool = False
    limit: float | None = None
    path: str | int = "a"
    inner: Inner = Inner()
    turns: tuple[float, ...] = (0.0,)
    stages: list[Inner] = field(default_factory=list)
    options: dict = field(default_factory=dict)


FULL = Outer(
    "x", 3, True, 0.5, 7, Inner(2.5, (1.0, 2.0)), (0.0, 90.0, -90.0), [Inner(1.0)], {"width": 0.5, "sizes": [1, 2]}
)


def read(**values):
    return from_dict(Outer, {"name": "x", **values})


# ------------------------------------------------------------------ config


@pytest.mark.parametrize("config", [Outer("x"), FULL])
def test_config_round_trip_through_json(config):
    assert from_dict(Outer, json.loads(json.dumps(to_dict(config)))) == config


def test_train_config_round_trip():
    config = TrainConfig(network_options={"width": 0.5})
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_to_dict_holds_plain_types_only():
    assert to_dict(Outer("x", options={"a": (1, Inner())}))["options"] == {
        "a": [1, {"radius_px": 4.0, "range_deg": [18.0, 60.0]}]
    }


def test_left_out_fields_keep_their_defaults():
    assert read(inner={"radius_px": 1.0}) == Outer("x", inner=Inner(1.0))


def test_a_ready_dataclass_is_taken_as_it_is():
    assert read(inner=Inner(9.0)).inner == Inner(9.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "epoch: Outer has no such field; did you mean epochs?"),
        ({"zzz": 3}, "zzz: Outer has no such field; it has .*'epochs'"),
        ({3: 3}, "3: Outer has no such field"),
        ({"inner": {"radius": 3}}, r"inner.radius: Inner has no such field; did you mean radius_px?"),
        ({"epochs": "3"}, "epochs: takes int, got '3'"),
        ({"epochs": 3.0}, "epochs: takes int, got 3.0"),
        ({"epochs": True}, "epochs: takes int, got True"),
        ({"half": 1}, "half: takes bool, got 1"),
        ({"name": None}, "name: takes str, got None"),
        ({"limit": "0.5"}, "limit: takes float, got '0.5'"),
        ({"limit": False}, "limit: takes float, got False"),
        ({"path": 1.5}, "path: takes str, got 1.5; or path: takes int"),
        ({"inner": 5}, "inner: takes dict, got 5"),
        (
            {"inner": {"radius_px": "1e-3"}},
            "inner.radius_px: takes float, got '1e-3'; YAML takes 1e-3 for text, write 1.0e-3",
        ),
        ({"inner": {"range_deg": [1, 2, 3]}}, "inner.range_deg: takes 2 values, got 3"),
        ({"inner": {"range_deg": [1, "b"]}}, r"inner.range_deg\[1\]: takes float, got 'b'"),
        ({"turns": 90.0}, "turns: takes list or tuple, got 90.0"),
        ({"turns": "90"}, "turns: takes list or tuple, got '90'"),
        ({"stages": [{"radius": 1}]}, r"stages\[0\].radius: Inner has no such field"),
        ({"options": [1]}, r"options: takes dict, got \[1\]"),
    ],
)
def test_what_does_not_fit_is_named(values, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        from_dict(Outer, {"name": "x", **values})


@pytest.mark.parametrize("values", [None, [], "name"])
def test_a_config_is_a_dict(values):
    with pytest.raises(ValueError, match="Outer: takes dict"):
        from_dict(Outer, values)


def test_a_missing_value_is_named():
    with pytest.raises(ValueError, match="name: Outer needs a value"):
        from_dict(Outer, {"epochs": 3})


def test_an_int_becomes_a_float_where_a_float_is_meant():
    config = read(limit=1, turns=[0, 90], inner={"range_deg": [1, 2]})
    assert [type(v) for v in (config.limit, *config.turns, *config.inner.range_deg)] == [float] * 5


def test_lists_become_tuples():
    assert read(turns=[0.0, 45.0]).turns == (0.0, 45.0) and read(turns=[]).turns == ()


def test_a_union_takes_each_of_its_types():
    assert (read(limit=None).limit, read(limit=0.5).limit, read(path=3).path, read(path="b").path) == (
        None,
        0.5,
        3,
        "b",
    )


def test_differences_are_dotted_and_complete():
    changed = to_dict(Outer("x", 3, True, 0.5, 7, Inner(2.5, (1.0, 9.0)), FULL.turns, [Inner(1.0)], FULL.options))
    assert differences(to_dict(FULL), changed) == ["inner.range_deg: [1.0, 2.0] → [1.0, 9.0]"]
    assert differences({"a": 1}, {"b": 2}) == ["a: 1 → None", "b: None → 2"]
    assert differences(to_dict(FULL), to_dict(FULL)) == []


# ------------------------------------------------------------------ checkpoints


def small(seed=0):
    torch.manual_seed(seed)
    return build_network("lite", width=0.25, descriptor_dim=16).eval()


@pytest.fixture
def saved(tmp_path):
    return save_network(tmp_path / "runs" / "net.safetensors", small(), {"phase": "warmup", "step": 7})


def test_checkpoint_round_trip(saved):
    network, metadata = load_network(saved)
    assert metadata == {
        "network": "lite",
        "options": {"width": 0.25, "descriptor_dim": 16},
        "phase": "warmup",
        "step": 7,
    }
    assert all((v == network.state_dict()[k]).all() for k, v in small().state_dict().items()) and not network.training


def test_a_loaded_network_gives_the_same_output(saved):
    image = torch.rand(1, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (load_network(str(saved))[0](image).detector == small()(image).detector).all()


def test_colleagues_may_read_weights_as_they_may_read_other_files(saved):
    (other := saved.with_name("other")).touch()
    assert saved.stat().st_mode == other.stat().st_mode


def test_half_precision_is_half_the_file_and_loads_as_float32(saved, tmp_path):
    half = save_network(tmp_path / "half.safetensors", small(), half=True)
    network, _ = load_network(half)
    assert half.stat().st_size < 0.6 * saved.stat().st_size
    for name, value in small().state_dict().items():
        loaded = network.state_dict()[name]
        assert loaded.dtype == value.dtype and torch.allclose(loaded, value, rtol=1e-3, atol=1e-6)


def test_channels_last_weights_are_saved_alike(saved, tmp_path):
    other = save_network(
        tmp_path / "last.safetensors", small().to(memory_format=torch.channels_last), read_metadata(saved)
    )
    assert other.read_bytes() == saved.read_bytes()


def test_a_failed_save_leaves_the_old_checkpoint_alone(saved):
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        save_network(saved, small(1), {"phase": object()})
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file({"a": torch.zeros(2)}, str(tmp_path / "foreign.safetensors"))
    with pytest.raises(ValueError, match="foreign.safetensors has no retina_kp header"):
        load_network(tmp_path / "foreign.safetensors")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 this is a pickle", b"\xff" * 100])
def test_a_file_that_is_no_safetensors_is_refused(content, tmp_path):
    (tmp_path / "other.pth").write_bytes(content)
    with pytest.raises(ValueError, match="other.pth is no readable safetensors file"):
        load_network(tmp_path / "other.pth")


def test_a_truncated_checkpoint_is_refused(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(ValueError, match="no readable safetensors file"):
        load_network(saved)


@pytest.mark.parametrize("change", ["shape", "missing", "extra"])
def test_tensors_that_do_not_fit_are_named(change, saved):
    with safe_open(str(saved), "pt") as file:
        tensors, header = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()
    if change == "extra":
        tensors["zzz"] = torch.zeros(1)
    else:
        del tensors["detect.bias"]
    if change == "shape":
        tensors["detect.bias"] = torch.zeros(2)
    save_file(tensors, str(saved), metadata=header)
    with pytest.raises(
        ValueError, match=f"does not fit network 'lite': 1 tensors .*{'zzz' if change == 'extra' else 'detect.bias'}"
    ):
        load_network(saved)


def changed(path, change):
    """The checkpoint with its tensors or its header changed, without the sum that would tell."""
    with safe_open(str(path), "pt") as file:
        tensors, header = {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["retina_kp"])
    del header["tensors_sha256"]
    change(tensors, header)
    save_file(tensors, str(path), metadata={"retina_kp": json.dumps(header)})
    return path


def zeros(tensors, header):
    tensors |= {key: torch.zeros_like(value) for key, value in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (zeros, "hold nothing but zeros"),
        (lambda t, h: t["detect.bias"].fill_(float("nan")), "detect.bias holds values that are not finite"),
        (lambda t, h: t.update({"detect.bias": torch.zeros(1, dtype=torch.int64)}), "detect.bias holds torch.int64"),
        (lambda t, h: t.update(steerers=torch.eye(7).expand(4, 7, 7).clone()), r"steerers has shape \(4, 7, 7\), not"),
        (lambda t, h: t.update(steerers=torch.ones(4)), r"steerers has shape \(4,\), not"),
        (lambda t, h: h.pop("network"), "header has no 'network'"),
        (lambda t, h: h.update(options=[1]), "header has no 'options'"),
        (lambda t, h: h["options"].update(width=1e5), "does not fit network 'lite'"),  # without asking for terabytes
        (lambda t, h: h["options"].update(descriptor_dim=-1), "of its header cannot be built: .*negative"),
        (lambda t, h: h["options"].update(size=3), "does not take these options"),
    ],
)
def test_a_changed_checkpoint_is_refused_with_the_key(change, message, saved):
    with pytest.raises(ValueError, match=message) as caught:
        load_network(changed(saved, change))
    assert str(saved) in str(caught.value)


def test_weights_with_a_flipped_bit_are_refused(saved):
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1  # of the last tensor: the value stays finite
    saved.write_bytes(content)
    with pytest.raises(ValueError, match="not those that were saved"):
        load_network(saved)


def test_a_header_that_is_no_json_is_refused(saved):
    save_file({"a": torch.zeros(2)}, str(saved), metadata={"retina_kp": "{network"})
    with pytest.raises(ValueError, match="header is no JSON"):
        load_network(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "4", None, True])
def test_a_calibration_holds_finite_numbers(value):
    with pytest.raises(ValueError, match="calibration: settled_share is .*, no finite number"):
        checked(DEFAULT_CALIBRATION | {"settled_share": value})
    assert checked(DEFAULT_CALIBRATION) == checked(None)


def test_a_network_of_ones_own_is_saved_and_loaded_by_the_name_it_was_built_by(tmp_path, monkeypatch):
    class Lite(NETWORKS["lite"]):  # whose class is called as another network
        pass

    monkeypatch.setitem(NETWORKS, "my-lite", Lite)
    path = save_network(tmp_path / "own.safetensors", build_network("my-lite", width=0.25, descriptor_dim=16))
    network, metadata = load_network(path)
    assert metadata["network"] == network.name == "my-lite" and type(network) is Lite
    assert read_metadata(save_network(path, for_inference(network)))["network"] == "my-lite"


def test_an_unknown_network_is_refused(tmp_path):
    save_file(
        {"a": torch.zeros(2)},
        str(tmp_path / "net.safetensors"),
        metadata={"retina_kp": '{"network": "huge", "options": {}}'},
    )
    with pytest.raises(ValueError, match="huge.*lite"):
        load_network(tmp_path / "net.safetensors")


def test_a_missing_name_lists_what_ships():
    with pytest.raises(FileNotFoundError, match=r"'lait': give the path .* a shipped name \(.+\)"):
        find_weights("lait")


def test_a_path_means_the_same_in_the_project_and_in_its_notebooks(tmp_path, monkeypatch):
    project = Path(__file__).resolve().parents[1]
    for here in (project, project / "notebooks", tmp_path):
        monkeypatch.chdir(here)
        assert in_project("tests/conftest.py").samefile(project / "tests" / "conftest.py")
        assert find_weights("retina_kp/weights/lite.safetensors").samefile(find_weights("lite"))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "conftest.py").write_text("mine")
    assert in_project("tests/conftest.py").read_text() == "mine", "what lies here goes first"
    assert in_project("not/there.csv") == project / "not" / "there.csv"


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the path"):
        load_network(tmp_path)
