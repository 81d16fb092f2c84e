"""Files that somebody has damaged, or made to hurt: ``python -m tests.campaign --cases 1000 --seed 1``.

Each case changes images, tables, points, weights, archives, results, parameters or names by a seeded draw, and uses
them in a process of its own with limits. It passes if it gives the right content, or an error that names the file. It
fails by a crash, a hang, more than 2 GB, another kind of exception, a file outside its output folder, markup in HTML
that came from a name, or other content than was saved where a check sum could tell.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import signal
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from retina_kp import Registrar, Registration
from retina_kp.cli.pair import pair_page, told
from retina_kp.core.files import write_csv
from retina_kp.core.images import as_array, image_size
from retina_kp.data.layouts import load_layout
from retina_kp.data.layouts.pairs_csv import write_pairs_csv
from retina_kp.evaluation.batch import find_jobs, run_jobs
from retina_kp.networks import build_network
from retina_kp.networks.checkpoints import load_network, save_network
from retina_kp.notebook.report import read_parameters
from retina_kp.registration.confidence import DEFAULT_CALIBRATION
from retina_kp.training.processes import read_state, write_state
from retina_kp.viz import table

MEMORY_BYTES, HANG_S, ALLOWED = 2 * 2**30, 120, (ValueError, OSError)
HOSTILE = (
    *(
        "",
        " ",
        "nan",
        "inf",
        "-1",
        "1e308",
        "1e-320",
        "9" * 400,
        "0x10",
        "=HYPERLINK(1)",
        "+1+1",
        "@a",
        "-2+3",
        "$a$_$",
    ),
    *("<script>alert(1)</script>", '"><img src=x onerror=y>', "&lt;", "'", '"', ",", ";", "\n", "\t", "\\", "%s{0}"),
    *("../../../etc/passwd", "/etc/passwd", "/dev/zero", "..", "~", "a/../../b", "CON", "眼底", "e\u0301", "\u202egnp"),
    *("x" * 5000, "[[[[", "{}", "null", "true", "!!python/object/apply:os.system [id]", "\x00", "\x1b[31m"),
)
JSON_VALUES = (None, True, -1, 0, 1e308, float("nan"), float("inf"), [], {}, [[]], "x", "<script>", [1] * 9, 2**70)
NAMES = (
    "<script>x",
    "$a$",
    "=1+1",
    "-rf",
    "a\nb",
    "é",
    "e\u0301",
    '"q"',
    "'q'",
    "a;b",
    "..b",
    "n" * 120,
    "{}",
    "%s",
    "眼",
)


# ------------------------------------------------------------------ what is damaged


def picture(seed: int, hw=(64, 80)) -> np.ndarray:
    return cv2.GaussianBlur(np.random.default_rng(seed).integers(0, 255, hw, np.uint8), (5, 5), 0)


def encoded(kind: str, deep: bool = False, **how) -> bytes:
    buffer, array = io.BytesIO(), picture(1)
    Image.fromarray(array.astype(np.uint16) * 200 if deep else array).save(buffer, kind, **how)
    return buffer.getvalue()


IMAGES = {
    ".png": encoded("PNG"),
    "16.png": encoded("PNG", deep=True),
    ".jpg": encoded("JPEG", quality=90),
    ".tif": encoded("TIFF"),
    "lzw.tif": encoded("TIFF", compression="tiff_lzw"),
    "deep.tif": encoded("TIFF", deep=True, compression="tiff_adobe_deflate"),
    ".bmp": encoded("BMP"),
}


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A few bits, bytes, numbers or pieces changed, or the end cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place, way = rng.randrange(max(len(data), 1)), rng.randrange(6)
        if way == 0 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif way == 1:
            data[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", rng.randbytes(4)))
        elif way == 2:
            del data[place:]
        elif way == 3:
            del data[place : place + rng.randrange(1, 64)]
        elif way == 4:
            data[place:place] = data[: rng.randrange(200)]
        else:
            head = rng.randrange(min(len(data), 64) or 1)
            data[head : head + 1] = rng.randbytes(1)
    return bytes(data)


def with_hostile_value(plain: object, rng: random.Random) -> object:
    """JSON data with one value, anywhere in it, exchanged or left out."""
    if isinstance(plain, dict) and plain and rng.random() < 0.9:
        key = rng.choice(list(plain))
        if rng.random() < 0.15:
            return {k: v for k, v in plain.items() if k != key}
        return plain | {key: with_hostile_value(plain[key], rng)}
    if isinstance(plain, list) and plain and rng.random() < 0.7:
        place = rng.randrange(len(plain))
        return [*plain[:place], with_hostile_value(plain[place], rng), *plain[place + 1 :]]
    return rng.choice((*JSON_VALUES, rng.choice(HOSTILE)))


# ------------------------------------------------------------------ the cases: what they return is what went wrong, or ""


def images(rng: random.Random, inside: Path, out: Path) -> str:
    ending = rng.choice(list(IMAGES))
    path = inside / f"image{ending}"
    path.write_bytes(damaged(IMAGES[ending], rng))
    array, hw = as_array(path), image_size(path)
    if array.shape[:2] != hw:
        return f"{hw} by its header, {array.shape[:2]} decoded"
    whole = picture(1).astype(np.uint16) * 200 if ending == "16.png" else picture(1)
    same_frame = ending.endswith("png") and array.shape == whole.shape and array.dtype == whole.dtype
    return "other pixels" if same_frame and (array != whole).any() else ""


def tables(rng: random.Random, inside: Path, out: Path) -> str:
    for name in "ab":
        cv2.imwrite(str(inside / f"{name}.png"), picture(ord(name)))
        points = np.array([[5, 5], [60, 8], [50, 50], [9, 44], [30, 20.0]])
        (inside / f"{name}.txt").write_text("".join(f"{x} {y}\n" for x, y in points), encoding="utf-8")
    cells = [["p1", "e1", "CF", "FA", "a.png", "b.png", "a.txt", "b.txt", "", "", "train"]]
    cells += [["p2", "e2", "CF", "OCT", "a.png", "b.png", "", "", "1 0 3 0 1 2 0 0 1", "", ""]]
    header = "pair_id eye_id modality0 modality1 image0 image1 points0 points1 H_0to1 vessel_mask0 split".split()
    for _ in range(rng.choice((1, 1, 3))):
        row = rng.choice([header, *cells, *cells])
        row[rng.randrange(len(row))] = rng.choice(HOSTILE)
    text = pd.DataFrame(cells, columns=header).to_csv(index=False).encode("utf-8", "surrogatepass")
    (inside / "pairs.csv").write_bytes(damaged(text, rng) if rng.random() < 0.3 else text)
    if rng.random() < 0.3:
        points = inside / rng.choice(("a.txt", "b.txt"))
        points.write_bytes(damaged(points.read_bytes(), rng))
    found = load_layout(inside)
    page = table(
        [{"pair": r.pair_id, "eye": r.eye_id, "kind": r.modality0, "file": str(r.image0)} for r in found.records]
    )
    write_pairs_csv(out / "pairs.csv", found.records)
    if found.records and load_layout(out).records != found.records:
        return "another table after writing and reading"
    return "markup" if "<script" in page.data or "<img" in page.data else ""


def weights(rng: random.Random, inside: Path, out: Path) -> str:
    path, network = inside / "net.safetensors", build_network("lite", width=0.25, descriptor_dim=16)
    save_network(path, network, {"calibration": DEFAULT_CALIBRATION, "step": 3}, steerers=torch.eye(16).repeat(4, 1, 1))
    whole = {k: v.clone() for k, v in network.state_dict().items()}
    if rng.random() < 0.5:
        path.write_bytes(damaged(path.read_bytes(), rng))
    else:
        with safe_open(str(path), "pt") as file:
            tensors, about = {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata())
        if rng.random() < 0.5:
            about["retina_kp"] = json.dumps(with_hostile_value(json.loads(about["retina_kp"]), rng))
        else:
            key = rng.choice(list(tensors))
            value = rng.choice((float("nan"), float("inf"), 0.0, 1e30))
            tensors[key] = rng.choice(
                (tensors[key].reshape(-1)[:1].clone(), torch.full_like(tensors[key].double(), value))
            )
        save_file(tensors, str(path), metadata=about)
    loaded, metadata = load_network(path)
    try:
        Registrar(loaded, calibration=metadata.get("calibration"))
    except ValueError as error:  # speaks of the calibration, and the caller knows of which file
        return "" if "calibration" in str(error) else str(error)
    state = loaded.state_dict()
    return "" if all(torch.equal(state[k], v) for k, v in whole.items()) else "other weights"


def archives(rng: random.Random, inside: Path, out: Path) -> str:
    path, state = inside / "state.pt", {"step": 3, "history": [{"loss": 0.5}], "network": {"a": torch.arange(50.0)}}
    write_state(path, state)
    if rng.random() < 0.5:
        path.write_bytes(damaged(path.read_bytes(), rng))
    else:  # sound as an archive, damaged inside
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = rng.choice(list(members))
        members[name] = damaged(members[name], rng)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        read_state(path)  # what it holds nobody can check
        return ""
    found = read_state(path)
    same = found.get("step") == 3 and torch.equal(found["network"]["a"], state["network"]["a"])
    return "" if same else "another state"


def results(rng: random.Random, inside: Path, out: Path) -> str:
    H, points = np.array([[1, 0.1, 3], [-0.1, 1, 5], [0, 0, 1.0]]), np.ones((2, 6, 2))
    whole = Registration("ok", H, 0.9, *points, np.ones(6, bool), (64, 80), (64, 80), evidence={"inliers": 6.0})
    path = whole.save(inside / "pair.json")[0]
    text = path.read_bytes()
    plain = json.dumps(with_hostile_value(json.loads(text), rng)).encode()
    path.write_bytes(damaged(text, rng) if rng.random() < 0.4 else plain)
    found = Registration.load(path)
    if found.ok:
        found.map_to_fixed([[1, 2]])
    found.save(out / "again.json")
    return ""


def parameters(rng: random.Random, inside: Path, out: Path) -> str:
    path = inside / "given.yaml"
    lines = [
        f"{name}: {rng.choice(HOSTILE)}" for name in rng.sample(("fixed", "model", "max_pairs", "zzz", "run_name"), 2)
    ]
    path.write_bytes(damaged("\n".join(lines).encode(), rng) if rng.random() < 0.4 else "\n".join(lines).encode())
    read_parameters("07_register", [(rng.choice(("fixed", "max_pairs")), rng.choice(HOSTILE))], str(path))
    return ""


def names(rng: random.Random, inside: Path, out: Path) -> str:
    """Two folders with hostile file names, registered with a fixed answer; pages and tables of them."""
    for side in ("cf", "fa"):
        (inside / side).mkdir()
        for name in rng.sample(NAMES, 3):
            (inside / side / f"{name}{rng.choice(('', '_1', '_2'))}.png").write_bytes(IMAGES[".png"])
    answer = Registration("ok", np.eye(3), 0.9, *np.zeros((2, 0, 2)), np.zeros(0, bool), (64, 80), (64, 80))
    outcomes = run_jobs(lambda fixed, moving: answer, find_jobs(inside / "cf", inside / "fa"), out)
    rows = [o.job.row() | o.row() for o in outcomes]
    write_csv(out / "results.csv", rows)
    about = {"fixed image": str(outcomes[0].job.fixed), "moving image": str(outcomes[0].job.moving)}
    page = pair_page(
        answer.refuse("none"), told(answer.refuse("<script>")), about, {"fixed": picture(1), "moving": picture(2)}, []
    )
    written = (out / "results.csv").read_text("utf-8")
    formula = any(line[:1] in "=@" for line in written.splitlines() if line)
    return "markup" if "<script" in page + table(rows).data else "a formula" if formula else ""


KINDS: dict[str, Callable] = {f.__name__: f for f in (images, tables, weights, archives, results, parameters, names)}


# ------------------------------------------------------------------ one process per case


def tried(kind: str, seed: str, base: Path) -> str:
    """In the child: what became of a case."""
    inside, out = base / "in", base / "out"
    try:
        return KINDS[kind](random.Random(seed), inside, out) or "right"
    except ALLOWED as error:
        named = any(path.name in str(error) for path in (inside, *inside.rglob("*"))) or kind == "parameters"
        return "told" if named else f"names no file: {type(error).__name__}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def limit() -> None:
    used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**28,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run_case(kind: str, seed: str) -> str:
    """ "right", "told", or what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for name in ("in", "out", "here"):
            (base / name).mkdir()
        child = os.fork()
        if child == 0:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 1), os.dup2(null, 2), os.chdir(base / "here"), limit()
            (base / "outcome").write_text(tried(kind, seed, base), encoding="utf-8", errors="backslashreplace")
            os._exit(0)
        deadline, ended = time.monotonic() + HANG_S, 0
        while not ended:
            ended, status, used = os.wait4(child, os.WNOHANG)
            if not ended and time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return "hang"
            time.sleep(0.002)
        if status:
            return f"crash: {status}"
        if used.ru_maxrss * 1024 > MEMORY_BYTES:
            return f"memory: {used.ru_maxrss / 2**20:.1f} GB"
        strays = [
            p for p in base.rglob("*") if p.is_file() and p.relative_to(base).parts[0] not in ("in", "out", "outcome")
        ]
        return f"stray file {strays[0].name}" if strays else (base / "outcome").read_text(encoding="utf-8")


def campaign(cases: int, seed: int, kinds=tuple(KINDS)) -> pd.DataFrame:
    """One row per case: kind, seed, outcome."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    plan = [(kinds[k % len(kinds)], f"{seed}-{k}") for k in range(cases)]
    return pd.DataFrame([{"kind": kind, "seed": each, "outcome": run_case(kind, each)} for kind, each in plan])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    rows = campaign(**vars(parser.parse_args()))
    short = rows.outcome.where(rows.outcome.isin(["right", "told"]), "WRONG")
    print(pd.crosstab(rows.kind, short, margins=True))
    wrong = rows[short == "WRONG"]
    print(wrong.to_string(index=False, max_colwidth=160))
    raise SystemExit(int(len(wrong) > 0))
