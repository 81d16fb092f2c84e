"""The viewer in a real browser: in pages, as a widget that answers to Python, and in JupyterLab.

`make test-browser` installs what this needs; without a browser these tests skip."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pytest
from PIL import Image

from retina_kp.core.geometry import similarity, warp_points
from retina_kp.core.images import read_image, write_image
from retina_kp.data.layouts import load_layout
from retina_kp.data.records import PairRecord
from retina_kp.evaluation.methods import as_registration
from retina_kp.viewer import page as pages
from retina_kp.viewer import scenes
from retina_kp.viewer.session import Session
from retina_kp.viewer.widget import Annotator

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-browser does it")
ROOT = Path(__file__).resolve().parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu"]
FRAMES_PER_SECOND, LAB_S = 30, 240
CANVAS = ".retina-viewer .pane > canvas:first-child"
H_0TO1 = similarity(25, 0.8, (300, 200), (260, 240))
HW0, HW1 = (401, 601), (480, 520)
# Counts the frames that the browser draws while something is dragged.
COUNT = """() => { window.frames = []; window.on = true;
const count = (time) => { frames.push(time); if (on) requestAnimationFrame(count); }; requestAnimationFrame(count); }"""
# WCAG's contrast of an element's text with what lies below it.
CONTRAST = """(element) => {
  const context = document.createElement("canvas").getContext("2d"), below = [];
  const paper = document.body.appendChild(document.createElement("div"));
  paper.style.background = "Canvas";
  for (let each = element; each; each = each.parentElement) below.unshift(getComputedStyle(each).backgroundColor);
  below.unshift(getComputedStyle(paper).backgroundColor);
  paper.remove();
  const luminance = (color) => {
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [red, green, blue] = [...context.getImageData(0, 0, 1, 1).data].map((v) => linear(v / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const [low, high] = [below.map(luminance).at(-1), luminance(getComputedStyle(element).color)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""
# A widget's model as anywidget gives it, answered by Python's Annotator.
MODEL = """const heard = {}, values = JSON.parse(await tell("null"));
const model = { get: (name) => values[name], on: (name, act) => (heard[name] = act), off() {},
  send: async (message) => { const changed = JSON.parse(await tell(JSON.stringify(message)));
    Object.assign(values, changed); for (const name of Object.keys(changed)) heard["change:" + name]?.(); } };
render({ model, el: document.body.appendChild(document.createElement("div")) });"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        path = next(filter(None, map(shutil.which, NAMES)), own if Path(own).is_file() else None)
        if path is None:
            pytest.skip("there is no Chromium: make test-browser installs one")
        opened = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@contextmanager
def opened(browser, path: Path, **how):
    """A page; an error of its scripts fails the test."""
    page, errors = browser.new_page(**{"viewport": {"width": 1000, "height": 900}} | how), []
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(path.as_uri())
    yield page
    page.close()
    assert errors == []


def write_page(path: Path, scene: dict) -> Path:
    head = '<!DOCTYPE html><meta charset=utf-8><meta name=color-scheme content="light dark">'
    path.write_text(f"{head}<body>{pages.embedded(scene)}", encoding="utf-8")
    return path


def wait_for(page, done, seconds: float = 60):
    """Until done() is true; pages need time to decode tiles and to draw."""
    for _ in range(int(seconds * 10)):
        if done():
            return
        page.wait_for_timeout(100)
    raise AssertionError("nothing of the kind after a while")


def seen(page, k: int = 0) -> np.ndarray:
    """(H, W, 3) what a pane shows."""
    return np.array(Image.open(io.BytesIO(page.locator(CANVAS).nth(k).screenshot())).convert("RGB")).astype(int)


def spot(page, share_x: float, share_y: float, k: int = 0) -> tuple[float, float]:
    box = page.locator(CANVAS).nth(k).bounding_box()
    return box["x"] + share_x * box["width"], box["y"] + share_y * box["height"]


def press(page, key: str):
    page.locator(CANVAS).first.focus()
    page.keyboard.press(key)


# ------------------------------------------------------------------ pages


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """Red on blue, turned: the ways to look are told by colour, and the map by numbers."""
    fixed, moving = np.zeros((*HW0, 3), np.uint8), np.zeros((*HW1, 3), np.uint8)
    fixed[..., 0], moving[..., 2] = 220, 220
    scene = scenes.pair_scene(fixed, moving, as_registration(np.linalg.inv(H_0TO1), HW0, HW1))
    whole = np.zeros_like(fixed)
    whole[..., 2] = 220
    scene["layers"]["warped"] = scenes.layer(whole)
    return write_page(tmp_path_factory.mktemp("plain") / "report.html", scene)


def shares(page) -> tuple[float, float]:
    """Of the middle of the pane, how much is red and how much is blue."""
    picture = seen(page)
    h, w = picture.shape[:2]
    part = picture[h // 3 : 2 * h // 3, w // 3 : 2 * w // 3]
    return float((part[..., 0] > 180).mean()), float((part[..., 2] > 180).mean())


def test_each_way_to_look_shows_what_it_says(browser, plain):
    with opened(browser, plain) as page:
        wait_for(page, lambda: abs(shares(page)[0] - 0.5) < 0.03 and abs(shares(page)[1] - 0.5) < 0.03)  # swipe
        press(page, "3")
        wait_for(page, lambda: np.abs(seen(page)[300, 480] - [110, 0, 110]).max() < 12)  # blend
        press(page, "5")
        wait_for(page, lambda: 0.25 < shares(page)[0] < 0.75 and 0.25 < shares(page)[1] < 0.75)  # checkerboard
        press(page, "7")
        page.mouse.move(*spot(page, 0.5, 0.5))
        wait_for(page, lambda: shares(page)[1] > 0.3 and seen(page)[300, 480, 2] > 180)  # lens
        press(page, " ")  # flicker by hand: moving first
        wait_for(page, lambda: shares(page)[1] > 0.97)
        press(page, " ")
        wait_for(page, lambda: shares(page)[0] > 0.97)
        assert page.locator("button[aria-pressed=true]").all_inner_texts() == ["Flicker"]


def test_the_line_of_the_swipe_is_dragged(browser, plain):
    with opened(browser, plain) as page:
        wait_for(page, lambda: abs(shares(page)[0] - 0.5) < 0.03)
        page.mouse.move(*spot(page, 0.5, 0.5))
        page.mouse.down()
        page.mouse.move(*spot(page, 0.9, 0.5), steps=4)
        page.mouse.up()
        wait_for(page, lambda: shares(page)[0] > 0.97)


def test_the_place_under_the_pointer_is_marked_in_the_other_image(browser, plain):
    with opened(browser, plain) as page:
        press(page, "1")
        for share in (0.3, 0.6):
            page.mouse.move(*spot(page, share, 0.5))
            told = page.locator(".readout").inner_text().replace("px", "").split("·")
            fixed, moving = (np.array(each.split()[1:], dtype=str) for each in told)
            fixed, moving = (np.array([float(v.strip(",")) for v in each]) for each in (fixed, moving))
            np.testing.assert_allclose(moving, warp_points(fixed[None], H_0TO1)[0], atol=0.2)
        wait_for(page, lambda: min(yellow_pixels(seen(page, k)) for k in (0, 1)) > 20)


def yellow_pixels(picture: np.ndarray) -> int:
    """Of thin lines, whose edges are blended with what lies below them."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    return int(((red > 120) & (green > 110) & (blue < 130)).sum())


def test_wheel_zooms_about_the_pointer_once_the_viewer_was_clicked(browser, plain):
    with opened(browser, plain) as page:
        page.mouse.move(*spot(page, 0.3, 0.4))
        before = page.locator(".readout").inner_text()
        page.mouse.wheel(0, -400)
        page.wait_for_timeout(200)
        page.mouse.click(*spot(page, 0.3, 0.4))
        page.mouse.wheel(0, -400)
        wait_for(page, lambda: page.locator(".readout").inner_text() == before)
        page.mouse.move(*spot(page, 0.31, 0.4))
        near = [float(page.locator(".readout").inner_text().split()[1].strip(",")), float(before.split()[1].strip(","))]
        assert 0 < near[0] - near[1] < 8  # 10 css px are fewer px of the image than before


def test_screen_readers_find_names_for_all_controls(browser, plain):
    with opened(browser, plain) as page:
        assert page.get_by_role("img", name="fixed image").count() == 1
        assert page.get_by_role("toolbar").get_by_role("button").count() >= 8
        assert page.get_by_role("slider", name="position of the line").count() == 1
        page.locator(".retina-viewer button:text-is('Keys')").click()
        assert page.get_by_text("flip fixed and moving").is_visible()


def text_color(page) -> str:
    """The colour of the viewer's text, all of which can be read."""
    button = page.locator(".retina-viewer button[aria-pressed=true]")
    button.hover()
    assert button.evaluate(CONTRAST) >= 4.5
    page.locator(".retina-viewer button:text-is('Keys')").click()
    texts = page.locator(".retina-viewer").locator("button:enabled, .readout, .message, dt, dd, label, strong")
    for element in texts.filter(visible=True).all():
        assert element.evaluate(CONTRAST) >= 4.5, element.inner_text()
    assert texts.count() > 20
    return page.locator(".retina-viewer .message").evaluate("(element) => getComputedStyle(element).color")


def test_pages_can_be_read_in_light_and_in_dark(browser, plain):
    colors = set()
    for scheme in ("light", "dark"):
        with opened(browser, plain, color_scheme=scheme) as page:
            colors.add(text_color(page))
    assert len(colors) == 2


def test_4000_px_are_dragged_at_30_frames_a_second(browser, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (500, 500, 3), np.uint8)
    image = cv2.resize(noise, (4000, 4000), interpolation=cv2.INTER_CUBIC)
    layers = {"fixed": scenes.layer(image), "warped": scenes.layer(image[::-1])}
    scene = {"kind": "compare", "layers": layers, "maps": {}, "names": ["fixed", "moving"]}
    with opened(browser, write_page(tmp_path / "large.html", scene), viewport={"width": 1600, "height": 1000}) as page:
        page.mouse.click(*spot(page, 0.3, 0.5))
        page.mouse.wheel(0, -500)
        page.wait_for_timeout(1500)
        assert max(dragged(page) for _ in range(3)) >= FRAMES_PER_SECOND


def dragged(page) -> float:
    """Frames a second while the image is dragged about for a second."""
    page.mouse.move(*spot(page, 0.3, 0.5))
    page.mouse.down()
    page.evaluate(COUNT)
    began, k = time.monotonic(), 0
    while time.monotonic() - began < 1:
        k += 1
        page.mouse.move(*spot(page, 0.3 + 0.1 * np.sin(k / 5), 0.5 + 0.1 * np.cos(k / 5)))
    page.mouse.up()
    frames = page.evaluate("() => { on = false; return frames }")
    return 1000 * (len(frames) - 1) / (frames[-1] - frames[0])


# ------------------------------------------------------------------ annotation


@pytest.fixture
def record(tmp_path) -> PairRecord:
    rng = np.random.default_rng(0)
    fixed = cv2.GaussianBlur(rng.integers(0, 255, HW0, np.uint8), (0, 0), 4)
    write_image(tmp_path / "fixed.png", fixed)
    write_image(tmp_path / "moving.png", cv2.warpPerspective(fixed, H_0TO1, HW1[::-1]))
    return PairRecord("one", "7", "CF", "FA", tmp_path / "fixed.png", tmp_path / "moving.png")


def start(fixed, moving):
    return as_registration(np.linalg.inv(H_0TO1), read_image(fixed).shape, read_image(moving).shape)


@contextmanager
def annotating(browser, annotator: Annotator, folder: Path):
    """The widget's view in a page, with Python behind it as in a notebook."""

    def tell(message: str) -> str:
        names, before = ("scene", "state", "extra"), {}
        if message != "null":
            before = {name: getattr(annotator, name) for name in names}
            annotator.act(json.loads(message))
        now = {name: getattr(annotator, name) for name in names}
        changed = {name: value for name, value in now.items() if value is not before.get(name)}
        return json.dumps(changed, default=lambda content: base64.b64encode(content).decode())

    code = pages.script().replace("export default", "const exported =")
    html = f"<style>{pages.style()}</style><body><script type=module>{code}\nwindow.begin = async () => {{ {MODEL} }};</script>"
    (folder / "annotate.html").write_text(f"<!DOCTYPE html><meta charset=utf-8>{html}", encoding="utf-8")
    with opened(browser, folder / "annotate.html", viewport={"width": 1600, "height": 900}) as page:
        page.expose_function("tell", tell)
        page.evaluate("() => begin()")
        page.locator(CANVAS).first.wait_for()
        yield page


def test_clicks_are_placed_proposed_moved_undone_and_judged(browser, record, tmp_path):
    annotator = Annotator(Session([record], tmp_path / "out", start))
    with annotating(browser, annotator, tmp_path) as page:
        session, points = annotator.session, lambda: annotator.session.pair.points
        for k, share in enumerate(((0.3, 0.3), (0.7, 0.35), (0.6, 0.7), (0.35, 0.65), (0.5, 0.45)), 1):
            page.mouse.click(*spot(page, *share))
            wait_for(page, lambda k=k: len(points()) == k)
            wait_for(page, lambda: len(annotator.state["points"]) == len(points()))
            # Enter takes the proposed partner, once the view knows of the click; without a proposal it does nothing
            wait_for(page, lambda: page.keyboard.press("Enter") or np.isfinite(points()).all())
        np.testing.assert_allclose(warp_points(points()[:, :2], H_0TO1), points()[:, 2:], atol=0.05)
        wait_for(page, lambda: "leave-one-out residual 0.0 px" in page.locator(".message").inner_text())
        moved = points()[0].copy()
        page.mouse.move(*spot(page, 0.3, 0.3))
        page.mouse.down()
        page.mouse.move(*spot(page, 0.33, 0.3), steps=3)
        page.mouse.up()
        wait_for(page, lambda: points()[0, 0] > moved[0] + 5)
        np.testing.assert_array_equal(points()[0, 1:], moved[1:])
        page.wait_for_timeout(200)
        page.keyboard.press("Control+z")
        wait_for(page, lambda: points()[0, 0] == moved[0])
        page.keyboard.press("Delete")
        wait_for(page, lambda: len(points()) == 4)
        page.get_by_role("button", name="Undo").click()
        wait_for(page, lambda: len(points()) == 5)
        wait_for(page, lambda: page.get_by_role("button", name="Swipe").is_visible())  # by the clicks' own transform
        press(page, "a")
        wait_for(page, lambda: session.files["one"].verdict == "accepted")
    (found,) = load_layout(tmp_path / "out" / "pairs.csv").records
    np.testing.assert_allclose(warp_points(found.points0_xy, H_0TO1), found.points1_xy, atol=0.05)


# ------------------------------------------------------------------ JupyterLab

CELL = """import os
from retina_kp.data.records import PairRecord
from retina_kp.viewer.session import Session
from retina_kp.viewer.widget import Annotator
record = PairRecord("one", "7", "CF", "FA", "fixed.png", "moving.png")
Annotator(Session([record], "out"))"""


@pytest.fixture
def lab(record, tmp_path):
    """The address of a JupyterLab whose folder has a notebook and a pair of images."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells, own = [nbformat.v4.new_code_cell(CELL)], tmp_path / ".jupyter"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "a.ipynb")
    news = own / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false"}')  # else its question lies above a corner of the page
    folders = dict.fromkeys(("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"), str(own))
    environment = os.environ | folders | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = ["--no-browser", "--allow-root", "--port=0", "--IdentityProvider.token=t"]
    command = [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={tmp_path}"]
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield address_of(own, server)
        finally:
            server.terminate()
            server.wait(LAB_S)


def address_of(folder: Path, server: subprocess.Popen) -> str:
    """Of the server, as it writes it down when it is ready."""
    for _ in range(LAB_S * 5):
        for file in folder.glob("jpserver-*.json"):
            try:
                return json.loads(file.read_text())["url"]
            except ValueError:  # half written
                pass
        assert server.poll() is None, "JupyterLab has ended"
        time.sleep(0.2)
    raise AssertionError("JupyterLab does not start")


def kernel_pid(folder: Path) -> int:
    """Of the only kernel, told by the process list: its command names a connection file in this folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text()
        except OSError:
            continue
        if "ipykernel_launcher" in command and str(folder) in command:
            return int(process.name)
    raise AssertionError("no kernel runs")


@contextmanager
def in_lab(browser, lab: str, folder: Path):
    """The page of the notebook after its cell was run; failed.png in the folder shows where a test has failed."""
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(LAB_S * 1000)
    try:
        page.goto(f"{lab}lab/tree/a.ipynb?token=t", wait_until="commit")
        run_cell(page, lab)
        yield page
    except BaseException:
        page.screenshot(path=folder / "failed.png")
        raise
    finally:
        page.close()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the kernel to kill is found in /proc")
def test_a_kernel_killed_between_clicks_loses_nothing_in_jupyterlab(browser, lab, tmp_path):
    with in_lab(browser, lab, tmp_path) as page:
        draft = tmp_path / "out" / "drafts" / "7_one.json"
        for k, side in enumerate((0, 1, 0, 1, 0)):  # the third pair stays half
            page.mouse.click(*spot(page, 0.3 + 0.1 * k, 0.4 + 0.05 * k, side))
            wait_for(page, lambda k=k: draft.is_file() and sum(clicked(draft)) == k + 1)
        before = json.loads(draft.read_text())
        os.kill(kernel_pid(tmp_path), signal.SIGKILL)
        assert json.loads(draft.read_text()) == before and len(before["points"]) == 3
        # JupyterLab tells that the kernel has died, and starts another
        page.locator(".jp-Dialog .jp-mod-accept").click()
        run_cell(page, lab, "button:has-text('Undo'):disabled")
        wait_for(page, lambda: "2 point pairs" in page.locator(".retina-viewer .message").inner_text(), 60)
        page.mouse.click(*spot(page, 0.6, 0.6, 1))
        wait_for(page, lambda: clicked(draft) == [2, 2, 2])
        page.keyboard.press("x")  # rejects the pair; in JupyterLab's own keys it would cut the cell
        wait_for(page, lambda: json.loads(draft.read_text())["verdict"] == "rejected")
        assert page.locator(".retina-viewer").count() == 1


def test_the_viewer_follows_the_theme_of_jupyterlab(browser, lab, tmp_path):
    with in_lab(browser, lab, tmp_path) as page:
        light = text_color(page)
        page.locator(".lm-MenuBar-itemLabel:text-is('Settings')").click()
        page.locator(".lm-Menu-itemLabel:text-is('Theme')").hover()
        page.locator(".lm-Menu-itemLabel:text-is('JupyterLab Dark')").click()
        page.locator("body[data-jp-theme-light=false]").wait_for(state="attached")
        page.locator(".retina-viewer button:text-is('Keys')").click()
        assert text_color(page) != light


def clicked(draft: Path) -> list[int]:
    """How many sides of each point are clicked."""
    return [sum(value is not None for value in row[::2]) for row in json.loads(draft.read_bytes())["points"]]


def kernel_is_idle(lab: str) -> bool:
    """Whether there is one kernel, the page is connected with it, and it waits."""
    with urllib.request.urlopen(f"{lab}api/kernels?token=t") as answer:
        return [(each["execution_state"], each["connections"]) for each in json.load(answer)] == [("idle", 1)]


def run_cell(page, lab: str, then: str = "canvas"):
    """Run the notebook's cell, and wait for what it shows. Before it has a kernel the notebook calls itself idle too,
    and then forgets what was to be run."""
    wait_for(page, lambda: kernel_is_idle(lab), LAB_S)
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').first.wait_for(state="attached")
    page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
    page.keyboard.press("Control+Enter")
    page.locator(f".retina-viewer {then}").first.wait_for()
    page.wait_for_timeout(500)
