"""Oracle tests of the networks: shapes, strides against image pixels, size, the official parameter table, contrast
normalisation."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from retina_kp.core.compute import choose_device
from retina_kp.core.geometry import from_cells, pixel_grid
from retina_kp.networks import NETWORKS, DenseOutput, build_network, for_inference
from retina_kp.networks.common import LocalContrast, check_input, pad_to_multiple

ODD_HW = (313, 471)
# names and shapes of the authors' checkpoint (SuperRetina, ECCV 2022), written down from its definition
OFFICIAL = {
    "conv1a": (64, 1, 3, 3),
    "conv1b": (64, 64, 3, 3),
    "conv2a": (64, 64, 3, 3),
    "conv2b": (64, 64, 3, 3),
    "conv3a": (128, 64, 3, 3),
    "conv3b": (128, 128, 3, 3),
    "conv4a": (128, 128, 3, 3),
    "conv4b": (128, 128, 3, 3),
    "convDa": (256, 128, 3, 3),
    "convDb": (256, 256, 4, 4),
    "convDc": (256, 256, 1, 1),
    "trans_conv": (256, 256, 2, 2),
    "dconv_up3.0": (128, 256, 3, 3),
    "dconv_up3.2": (128, 128, 3, 3),
    "dconv_up2.0": (64, 192, 3, 3),
    "dconv_up2.2": (64, 64, 3, 3),
    "dconv_up1.0": (64, 128, 3, 3),
    "dconv_up1.2": (64, 64, 3, 3),
    "conv_last": (1, 64, 1, 1),
}


def network(name: str, seed: int = 0, **options):
    torch.manual_seed(seed)
    return build_network(name, **options).eval()


def plain(name: str, seed: int = 0):
    """A network without its contrast normalisation, so that only convolutions decide where things land."""
    net = network(name, seed)
    net.normalise = Untouched()
    return net


class Untouched(torch.nn.Module):
    def forward(self, image, valid=None):
        return image


# ------------------------------------------------------------------ shapes


@pytest.mark.parametrize(
    ("name", "dim", "detector_hw", "descriptor_hw"),
    [("lite", 128, (160, 240), (40, 60)), ("superretina", 256, (320, 480), (40, 60))],
)
def test_shapes_for_an_odd_size(name, dim, detector_hw, descriptor_hw):
    with torch.no_grad():
        out = network(name)(torch.rand(1, 1, *ODD_HW))
    assert out.detector.shape == (1, 1, *detector_hw)
    assert out.descriptors.shape == (1, dim, *descriptor_hw)


@pytest.mark.parametrize("name", NETWORKS)
def test_detector_is_a_probability(name):
    with torch.no_grad():
        detector = network(name)(torch.rand(2, 1, 64, 96)).detector
    assert 0 <= detector.min() and detector.max() <= 1


@pytest.mark.parametrize("name", NETWORKS)
def test_descriptors_have_unit_length(name):
    with torch.no_grad():
        descriptors = network(name)(torch.rand(2, 1, 64, 96)).descriptors
    assert torch.allclose(descriptors.norm(dim=1), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(5))
def test_networks_start_nearly_silent(name, seed):
    """From an answer of 0.5 everywhere the first steps overshoot into silence for good."""
    image = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        assert 0.01 < network(name, seed)(image).detector.mean() < 0.15


def test_padding_moves_no_pixel():
    image = torch.rand(1, 1, 5, 7)
    padded = pad_to_multiple(image, 8)
    assert padded.shape[-2:] == (8, 8) and torch.equal(padded[..., :5, :7], image)


def test_split_keeps_order_and_strides():
    out = DenseOutput(torch.arange(3.0).reshape(3, 1, 1, 1), torch.arange(3.0).reshape(3, 1, 1, 1), 2, 8)
    first, rest = out.split(1)
    assert first.detector.flatten().tolist() == [0] and rest.descriptors.flatten().tolist() == [1, 2]
    assert (rest.detector_stride, rest.descriptor_stride) == (2, 8)


# ------------------------------------------------------------------ strides and image pixels


def blobs(shift_px: int, size: int = 384) -> torch.Tensor:
    """(1, 1, size, size) a random patch in the middle of a black image, moved right and down."""
    image = torch.zeros(1, 1, size, size)
    start = size // 3 + shift_px
    image[..., start : start + 64, start : start + 64] = torch.rand(64, 64, generator=torch.Generator().manual_seed(1))
    return image


def best_shift(before: torch.Tensor, after: torch.Tensor) -> tuple[int, int]:
    """Whole-cell (x, y) move after which two maps agree best."""
    scores = {(x, y): float((before.roll((y, x), (2, 3)) * after).sum()) for x in range(-1, 7) for y in range(-1, 7)}
    return max(scores, key=scores.get)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("cells", [2, 4])
def test_descriptors_move_with_the_image(name, cells):
    images = torch.cat([torch.zeros(1, 1, 192, 192), blobs(0, 192), blobs(8 * cells, 192)])
    with torch.no_grad():
        empty, before, after = plain(name)(images).descriptors.split(1)
    assert best_shift(before - empty, after - empty) == (cells, cells)


def test_lite_moves_exactly_by_its_coarsest_stride():
    net = plain("lite")
    with torch.no_grad():
        before, after = net(blobs(0)), net(blobs(32))
    assert torch.allclose(before.descriptors[..., 16:24, 16:24], after.descriptors[..., 20:28, 20:28], atol=1e-5)
    assert torch.allclose(before.detector[..., 64:96, 64:96], after.detector[..., 80:112, 80:112], atol=1e-5)


def receptive_centre(net, which: str, cells: list[int], size: int = 192) -> torch.Tensor:
    """(2,) x, y px of the mean of what the cells (k, k) look at: the centroid of the input's gradient magnitude."""
    image = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(2)).requires_grad_()
    values = getattr(net(image), which)[0]
    total = torch.zeros(size, size)
    for k in cells:
        weights = torch.randn(len(values), generator=torch.Generator().manual_seed(k))
        total += torch.autograd.grad((values[:, k, k] * weights).sum(), image, retain_graph=True)[0][0, 0].abs()
    return (pixel_grid((size, size)) * total[..., None]).sum((0, 1)) / total.sum()


def test_superretina_descriptor_cells_lie_where_to_cells_says():
    cells = [11, 12]  # the 4x4 convolution gives two neighbouring cells one receptive field
    expected = from_cells(torch.tensor([11.5, 11.5]), 8)
    assert (receptive_centre(plain("superretina"), "descriptors", cells) - expected).abs().max() < 1.5


def test_lite_descriptor_cells_lie_where_to_cells_says():
    expected = from_cells(torch.tensor([12.0, 12.0]), 8)
    assert (receptive_centre(plain("lite"), "descriptors", [12]) - expected).abs().max() < 2.5


@pytest.mark.parametrize(("name", "stride", "networks"), [("lite", 2, 8), ("superretina", 1, 1)])
def test_detector_responds_where_the_impulse_is(name, stride, networks):
    """Random kernels lean to a side each, so the mean over several networks tells where a cell looks."""
    found, image = [], torch.zeros(1, 1, 192, 192)
    for seed in range(networks):
        net = plain(name, seed)
        with torch.no_grad():
            image.zero_()
            silent = net(image).detector
            image[..., 96, 80] = 1.0
            change = (net(image).detector - silent)[0, 0].abs()
        found.append(from_cells((pixel_grid(change.shape) * change[..., None]).sum((0, 1)) / change.sum(), stride))
    assert (torch.stack(found).mean(0) - torch.tensor([80.0, 96.0])).abs().max() < 1.5


# ------------------------------------------------------------------ cost


def test_lite_has_at_most_1_6_million_parameters():
    assert sum(p.numel() for p in network("lite").parameters()) <= 1.6e6


def test_lite_costs_at_most_6_gmac_at_512():
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network("lite")(torch.rand(1, 1, 512, 512))
    assert counter.get_total_flops() / 2 <= 6e9


# ------------------------------------------------------------------ the official checkpoint


def official_state() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    weights = {f"{name}.weight": torch.randn(shape, generator=g) * 0.02 for name, shape in OFFICIAL.items()}
    biases = {f"{name}.bias": torch.randn(shape[0], generator=g) * 0.02 for name, shape in OFFICIAL.items()}
    return weights | biases


def test_superretina_has_the_official_names_and_shapes():
    wanted = {name: tuple(value.shape) for name, value in official_state().items()}
    assert {name: tuple(value.shape) for name, value in network("superretina").state_dict().items()} == wanted


def test_superretina_loads_the_official_checkpoint_and_gives_it_back():
    net, state = network("superretina", local_contrast=False), official_state()
    net.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_superretina_computes_from_the_loaded_weights():
    net = network("superretina", local_contrast=False)
    net.load_state_dict(official_state())
    net.conv_last.weight.data.zero_()
    net.conv_last.bias.data.fill_(2.0)
    with torch.no_grad():
        assert torch.allclose(net(torch.rand(1, 1, 32, 32)).detector, torch.sigmoid(torch.tensor(2.0)))


# ------------------------------------------------------------------ local contrast


def textured(g: int = 4) -> torch.Tensor:
    return 0.2 + 0.4 * F.avg_pool2d(torch.rand(1, 1, 105, 131, generator=torch.Generator().manual_seed(g)), 5, 1, 2)


def test_local_contrast_ignores_offset():
    image = textured()
    assert torch.allclose(LocalContrast()(image), LocalContrast()(image + 0.3), atol=1e-3)


def test_local_contrast_ignores_gain():
    image, normalise = textured(), LocalContrast(floor=1e-6)
    assert torch.allclose(normalise(image), normalise(0.5 * image), atol=1e-3)


def test_local_contrast_ignores_what_lies_outside_the_field_of_view():
    image, valid = textured(), torch.zeros(1, 1, 105, 131, dtype=torch.bool)
    valid[..., 20:90, 30:100] = True
    other = torch.where(valid, image, torch.rand(image.shape, generator=torch.Generator().manual_seed(5)))
    assert torch.allclose(LocalContrast()(image, valid), LocalContrast()(other, valid), atol=1e-4)


def test_local_contrast_is_zero_outside_the_field_of_view():
    valid = torch.zeros(1, 1, 105, 131, dtype=torch.bool)
    assert LocalContrast()(textured(), valid).abs().max() == 0


def test_local_contrast_of_a_constant_is_zero():
    assert LocalContrast()(torch.full((1, 1, 40, 41), 0.7)).abs().max() < 1e-3


# ------------------------------------------------------------------ behaviour


@pytest.mark.parametrize("name", NETWORKS)
def test_eval_is_deterministic(name):
    net, image = network(name), torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(image).descriptors, net(image).descriptors)


@pytest.mark.parametrize(
    "bad", [torch.rand(1, 3, 32, 32), torch.rand(1, 32, 32), torch.zeros(1, 1, 32, 32, dtype=torch.uint8)]
)
def test_wrong_input_is_refused_with_its_shape(bad):
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\).*" + str(bad.shape[-1])):
        check_input(bad)


def test_unknown_network_and_option_are_refused():
    with pytest.raises(ValueError, match="there are lite, superretina"):
        build_network("resnet")
    with pytest.raises(ValueError, match="depth"):
        build_network("lite", depth=3)


@pytest.mark.parametrize("fast", [False, True])
def test_the_copy_for_inference_computes_the_same(fast):
    """Odd sizes, a field of view, with and without descriptors; in bfloat16 as exactly as the network itself."""
    net = network("lite")
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2), module.running_var.uniform_(0.5, 2)
    image = torch.rand(1, 1, 97, 131, generator=torch.Generator().manual_seed(1))
    faster, valid = for_inference(net), image < 0.9
    assert not any(isinstance(m, torch.nn.BatchNorm2d | torch.nn.ReLU) for m in faster.modules())
    with torch.no_grad():
        exact = net(image, valid)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            found, alone = faster(image, valid), faster(image, valid, describe=False)
    assert torch.allclose(exact.detector, found.detector, atol=0.02 if fast else 1e-5)
    assert torch.allclose(exact.descriptors, found.descriptors, atol=0.05 if fast else 1e-4)
    assert torch.equal(alone.detector, found.detector) and alone.descriptors is None


@pytest.mark.parametrize("name", NETWORKS)
def test_descriptors_are_left_out_on_request(name):
    net, image = network(name), torch.rand(1, 1, 64, 48)
    with torch.no_grad():
        assert torch.equal(net(image, describe=False).detector, net(image).detector)
        assert net(image, describe=False).descriptors is None


# ------------------------------------------------------------------ where they run


@pytest.mark.parametrize(
    ("devices", "asked", "chosen"),
    [
        (0, "auto", "cpu"),
        (2, "auto", "cuda"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
        (0, torch.device("cpu"), "cpu"),
    ],
)
def test_a_device_is_chosen(monkeypatch, devices, asked, chosen):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    assert choose_device(asked) == torch.device(chosen)


@pytest.mark.parametrize(
    ("devices", "asked", "message"),
    [
        (0, "cuda", 'device \'cuda\': no CUDA device is visible.*use "auto" or "cpu"'),
        (1, "cuda:1", "device 'cuda:1': 1 CUDA device is visible"),
        (0, "gpu", "device 'gpu': takes 'auto'"),
    ],
)
def test_a_device_that_is_not_there_is_refused(monkeypatch, devices, asked, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    with pytest.raises(ValueError, match=message):
        choose_device(asked)
