"""Network weights on disk: safetensors with a JSON header that says which network they belong to."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..core.files import in_project, replacing
from . import build_network

SHIPPED = Path(__file__).parents[1] / "weights"


def save_network(path: str | Path, network, metadata: dict | None = None, half: bool = False, steerers=None) -> Path:
    """Write weights, steerers (4, D, D) and metadata, atomically; the network's name and options are added.

    half: as float16. The name is that of `build_network`, so a network of your own is loaded as what it was built by.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    if steerers is not None:
        tensors["steerers"] = torch.as_tensor(steerers)
    if half:
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    header = {"network": network.name, "options": network.options, **(metadata or {})}
    with replacing(path) as temporary:
        save_file(tensors, str(temporary), metadata={"retina_kp": json.dumps(header)})
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
    return json.loads(header)


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
    network = build_network(metadata["network"], **metadata["options"])
    with safe_open(str(path), "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}
    steerers = tensors.pop("steerers", None)
    network.steerers = None if steerers is None else steerers.float().numpy()
    wanted = network.state_dict()
    wrong = sorted(set(wanted) ^ set(tensors))
    wrong += [k for k in wanted if k in tensors and wanted[k].shape != tensors[k].shape]
    if wrong:
        words = f"{len(wrong)} tensors are missing, extra or misshapen, e.g. {wrong[0]}"
        raise ValueError(f"{path} does not fit network {network.name!r}: {words}")
    network.load_state_dict({k: v.to(wanted[k].dtype) for k, v in tensors.items()})
    return network.eval(), metadata
