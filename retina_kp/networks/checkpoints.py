"""Network weights on disk: safetensors with a JSON header that says which network they belong to."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..core.files import NOT_WRITTEN, in_project, replacing
from . import build_network

SHIPPED = Path(__file__).parents[1] / "weights"
HEADER = {"network": str, "options": dict}  # what no checkpoint can do without
CHECKSUM = "tensors_sha256"  # in the header
AGAIN = "copy the file again from its source, or train it anew"


def save_network(path: str | Path, network, metadata: dict | None = None, half: bool = False, steerers=None) -> Path:
    """Write weights, steerers (4, D, D) and metadata, atomically; the network's name and options are added.

    half: as float16. The name is that of `build_network`, so a network of your own is loaded as what it was built by.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    if steerers is not None:
        tensors["steerers"] = torch.as_tensor(steerers)
    if half:
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    header = {"network": network.name, "options": network.options, **(metadata or {}), CHECKSUM: checksum(tensors)}
    with replacing(path) as temporary:
        about = {"retina_kp": json.dumps(header)}  # of several keys the order would be another each time
        try:
            save_file(tensors, str(temporary), metadata=about)
        except SafetensorError as error:
            raise OSError(errno.EIO, f"{NOT_WRITTEN} ({error})", str(path)) from None
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # safetensors lets the owner alone read it; colleagues share run folders
    return Path(path)


def read_metadata(path: str | Path) -> dict:
    """The JSON header of a checkpoint; ValueError when the file is none of ours."""
    try:
        with safe_open(str(path), "pt") as file:
            header = (file.metadata() or {}).get("retina_kp")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no readable safetensors file: {error}") from None
    if header is None:
        raise ValueError(f"{path} has no retina_kp header: it was not written by `save_network`")
    try:
        metadata = json.loads(header)
    except ValueError as error:
        raise ValueError(f"{path}: its retina_kp header is no JSON ({error}); {AGAIN}") from None
    for key, kind in HEADER.items():
        if not isinstance(metadata, dict) or not isinstance(metadata.get(key), kind):
            raise ValueError(f"{path}: its retina_kp header has no {key!r} as it should; {AGAIN}")
    return metadata


def find_weights(name: str | Path) -> Path:
    """Shipped weights by name, else a path as of `in_project`; FileNotFoundError lists what ships."""
    shipped = SHIPPED / f"{name}.safetensors"
    if str(name) == Path(name).name and shipped.is_file():
        return shipped
    if not (path := in_project(name)).is_file():
        names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.safetensors"))) or "none"
        ways = f"give the path of a .safetensors file, or a shipped name ({names})"
        raise FileNotFoundError(f"no weights {str(name)!r}: {ways}")
    return path


def find_weights_or_none(name: str | Path) -> Path | None:
    """`find_weights`, None where there are none of that name."""
    try:
        return find_weights(name)
    except FileNotFoundError:
        return None


def weights_sha256(name: str | Path) -> str:
    """Of the file that `find_weights` finds, hexadecimal."""
    return hashlib.sha256(find_weights(name).read_bytes()).hexdigest()


def load_network(name: str | Path):
    """(network in eval mode on the CPU, metadata) of shipped weights or a checkpoint file.

    network.steerers: (4, D, D) float32 array, or None as in the checkpoints of a run, which nobody has calibrated.
    """
    path = find_weights(name)
    metadata = read_metadata(path)
    with safe_open(str(path), "pt") as file:
        tensors, saved = {k: file.get_tensor(k) for k in file.keys()}, metadata.pop(CHECKSUM, None)
    _check_tensors(path, _built(path, metadata, "meta"), tensors)  # before any memory is asked for
    if saved not in (None, checksum(tensors)):
        raise ValueError(f"{path}: its weights are not those that were saved; {AGAIN}")
    network, steerers = _built(path, metadata), tensors.pop("steerers", None)
    network.steerers = None if steerers is None else steerers.float().numpy()
    wanted = network.state_dict()
    network.load_state_dict({k: v.to(wanted[k].dtype) for k, v in tensors.items()})
    network.eval()
    if steerers is not None:
        with torch.inference_mode():
            width = network(torch.zeros(1, 1, 64, 64)).descriptors.shape[1]
        if steerers.shape != (4, width, width):
            raise ValueError(f"{path}: steerers has shape {tuple(steerers.shape)}, not (4, {width}, {width}); {AGAIN}")
    return network, metadata


def _built(path: Path, metadata: dict, device: str = "cpu"):
    """The network that a header names; one that cannot be built on "meta" is built in earnest."""
    try:
        with torch.device(device):
            return build_network(metadata["network"], **metadata["options"])
    except NotImplementedError:
        return build_network(metadata["network"], **metadata["options"])
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{path}: the network of its header cannot be built: {error}") from None


def checksum(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of tensors and their names, hexadecimal."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_tensors(path: Path, network, tensors: dict[str, torch.Tensor]) -> None:
    """ValueError, with the key, for tensors that are not those of a trained network of this kind."""
    wanted = network.state_dict()
    wrong = sorted(set(wanted) ^ (set(tensors) - {"steerers"}))
    wrong += [k for k in wanted if k in tensors and wanted[k].shape != tensors[k].shape]
    if wrong:
        words = f"{len(wrong)} tensors are missing, extra or misshapen, e.g. {wrong[0]}"
        raise ValueError(f"{path} does not fit network {network.name!r}: {words}")
    for key, tensor in tensors.items():
        real = wanted[key].is_floating_point() if key in wanted else True
        if tensor.is_floating_point() != real:
            raise ValueError(f"{path}: {key} holds {tensor.dtype}, which is no type of weights; {AGAIN}")
        if real and not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: {key} holds values that are not finite; {AGAIN}")
    matrices = [key for key, tensor in tensors.items() if key != "steerers" and tensor.dim() >= 2]
    if matrices and not any(tensors[key].any() for key in matrices):
        raise ValueError(f"{path}: {matrices[0]} and all others hold nothing but zeros; {AGAIN}")
