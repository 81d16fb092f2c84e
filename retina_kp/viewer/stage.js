// The stage: toolbar, one or two panes, what the keys do, and the pointer that is marked in both images.

const YELLOW = "#F0E442", LOUPE_PX = 148, LOUPE_ZOOM = 4;
const KEYS = [
  ["1 … 7", "ways to look"],
  ["drag, arrows", "move"],
  ["wheel, pinch, + −", "zoom, once the viewer was clicked"],
  ["0", "show all"],
  ["[ ]", "slider"],
  ["space", "flip fixed and moving"],
  ["l", "panes move together, or each by itself"],
  ["e", "enlarge what is under the pointer"],
];

class Stage {
  /** root: an element; scene: of `scenes`; send: gives a message to Python, does nothing in a page. */
  constructor(root, scene, send = () => {}) {
    Object.assign(this, { root, send, scene, cursor: [null, null], flipped: false, dirty: false });
    this.scratch = document.createElement("canvas");
    this.amounts = Object.fromEntries(Object.entries(MODES).map(([name, mode]) => [name, mode.start]));
    this.linked = true;
    this.paused = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.own = this.layers = this.built(scene.layers);
    this.setMaps(scene.maps || {});
    this.build();
    this.setMode(this.layers.moving && !this.layers.warped ? "side" : scene.mode || "swipe");
    this.watcher = new ResizeObserver(() => this.measure());
    this.watcher.observe(this.box);
    root.addEventListener("keydown", (event) => this.key(event));
    this.timer = setInterval(() => this.tick(), 50);
  }

  stop() {
    this.watcher.disconnect();
    clearInterval(this.timer);
  }

  built(specs) {
    const layers = Object.entries(specs).map(([name, spec]) => [name, new Layer(spec, () => this.redraw())]);
    return Object.fromEntries(layers);
  }

  setMaps(maps) {
    this.maps = [mapFrom(maps.toMoving), mapFrom(maps.toFixed)];
    this.mapped = Boolean(maps.toMoving);
  }

  /** Take layers and maps besides those of the scene, in place of earlier ones: a new preview. */
  setExtra({ layers = {}, maps }) {
    this.layers = { ...this.own, ...this.built(layers) };
    if (maps) this.setMaps(maps);
    if (!this.offers(this.mode)) this.setMode("side");
    this.refresh();
    this.follow(this.panes[0]);
  }

  // -------------------------------------------------------------- elements

  build() {
    const { root, scene } = this;
    root.classList.add("retina-viewer");
    root.dataset.lmSuppressShortcuts = "true"; // JupyterLab's own keys would act on the cell
    this.names = scene.names || ["fixed", "moving"];
    this.tools = make("div", { class: "tools", role: "toolbar", "aria-label": "viewer" });
    this.buttons = {};
    Object.entries(MODES).forEach(([name, mode], k) => {
      this.buttons[name] = this.button(mode.title, `${mode.title}, key ${k + 1}`, () => this.setMode(name));
    });
    this.slider = make("input", { type: "range", min: 0, max: 1, step: 0.005 });
    this.slider.addEventListener("input", () => this.setAmount(Number(this.slider.value)));
    this.sliderText = make("span");
    this.sliderBox = make("label", { class: "amount" }, this.slider, this.sliderText);
    this.tools.append(this.sliderBox);
    this.button("Show all", "Show all, key 0", () => this.fit());
    this.helpButton = this.button("Keys", "List of keys, key ?", () => this.toggleHelp());
    this.box = make("div", { class: "panes" });
    this.panes = ["fixed", "moving"].filter((name) => this.layers[name]).map((name, k) => this.buildPane(name, k));
    this.readout = make("div", { class: "readout" });
    this.message = make("div", { class: "message", role: "status", "aria-live": "polite" });
    this.help = make("dl", { class: "help", hidden: "" });
    this.listKeys(KEYS);
    root.replaceChildren(this.tools, this.box, make("div", { class: "below" }, this.message, this.readout), this.help);
  }

  button(text, title, act, where = this.tools) {
    const made = make("button", { type: "button", title }, text);
    made.addEventListener("click", act);
    where.append(made);
    return made;
  }

  buildPane(name, k) {
    const pane = new Pane(`${this.names[k]} image`, this.layers[name].hw, {
      grab: (...all) => this.grab(...all),
      drag: (...all) => (this.swiping ? this.swipe(...all) : this.tool?.drag?.(...all)),
      drop: (...all) => this.swiping || this.tool?.drop?.(...all),
      click: (...all) => this.tool?.click?.(...all),
      hover: (...all) => this.hover(...all),
      moved: (...all) => this.moved(...all),
    });
    pane.side = k;
    pane.loupe = make("canvas", { class: "loupe", "aria-hidden": "true" });
    pane.box = make("div", { class: "pane" }, pane.canvas, pane.loupe);
    this.box.append(pane.box);
    return pane;
  }

  listKeys(keys) {
    for (const [key, text] of keys) this.help.append(make("dt", {}, key), make("dd", {}, text));
  }

  toggleHelp() {
    this.help.hidden = !this.help.hidden;
    this.helpButton.setAttribute("aria-expanded", !this.help.hidden);
  }

  say(text) {
    if (this.message.textContent !== text) this.message.textContent = text;
  }

  // -------------------------------------------------------------- ways to look

  /** Whether a mode has the layers that it needs. */
  offers(name) {
    const { layers } = this;
    return Boolean({ side: layers.moving, overlay: layers.overlay }[name] ?? (name !== "overlay" && layers.warped));
  }

  setMode(name) {
    if (!this.offers(name)) name = "side";
    Object.assign(this, { mode: name, flipped: false });
    this.paused &&= name === "flicker";
    this.refresh();
    this.measure();
  }

  refresh() {
    const { slider } = MODES[this.mode];
    for (const [name, button] of Object.entries(this.buttons)) {
      button.hidden = !this.offers(name);
      button.setAttribute("aria-pressed", name === this.mode);
    }
    if (!this.layers.moving) this.buttons.side.hidden = true;
    this.sliderBox.hidden = !slider;
    this.sliderText.textContent = slider;
    this.slider.value = this.amounts[this.mode];
    if (this.panes[1]) this.panes[1].box.hidden = this.mode !== "side";
    this.redraw();
  }

  setAmount(value) {
    this.amounts[this.mode] = clamp(value, 0, 1);
    this.slider.value = value;
    this.redraw();
  }

  flip() {
    if (!this.offers("flicker")) return;
    const flipped = this.mode === "flicker" ? !this.flipped : true;
    if (this.mode !== "flicker") this.setMode("flicker");
    Object.assign(this, { flipped, paused: true });
    this.redraw();
  }

  tick() {
    const pause = 1000 * 0.15 ** this.amounts.flicker;
    if (this.mode !== "flicker" || this.paused || performance.now() - (this.flippedAt || 0) < pause) return;
    Object.assign(this, { flipped: !this.flipped, flippedAt: performance.now() });
    this.redraw();
  }

  // -------------------------------------------------------------- moving about

  measure() {
    for (const pane of this.panes) pane.measure();
    if (this.panes[0]?.size[0]) this.follow(this.panes[0]);
    this.redraw();
  }

  fit() {
    for (const pane of this.panes) pane.fit();
    this.follow(this.panes[0]);
    this.redraw();
  }

  moved(pane) {
    this.follow(pane);
    this.redraw();
  }

  /** Let the other pane show the same part of the retina, turned and scaled alike. */
  follow(pane) {
    const other = this.panes[1 - pane.side], map = this.maps[pane.side], { view } = pane;
    if (!other || !this.linked || !this.mapped) return;
    const place = map([view.x, view.y]), shape = localShape(map, [view.x, view.y]);
    if (!place || !shape) return;
    Object.assign(other.view, { x: place[0], y: place[1], zoom: view.zoom / shape.scale, turn: view.turn - shape.turn });
  }

  /** Bring a place of one image to the middle of its pane, at least this large. */
  goTo(side, place, zoom) {
    const pane = this.panes[side];
    Object.assign(pane.view, { x: place[0], y: place[1], zoom: Math.max(pane.view.zoom, zoom) });
    this.cursor[side] = place;
    this.cursor[1 - side] = this.maps[side](place);
    this.moved(pane);
  }

  grab(pane, place, event) {
    const line = this.amounts.swipe * pane.size[0];
    this.swiping = this.mode === "swipe" && this.layers.warped && Math.abs(pane.spot(event)[0] - line) < SWIPE_GRAB_PX;
    return this.swiping || Boolean(this.tool?.grab?.(pane, place, event));
  }

  swipe(pane, place, event) {
    this.setAmount(pane.spot(event)[0] / pane.size[0]);
  }

  hover(pane, place, event) {
    this.cursor = [null, null];
    if (place) {
      this.cursor[pane.side] = place;
      this.cursor[1 - pane.side] = this.maps[pane.side](place);
    }
    this.tool?.hover?.(pane, place, event);
    const told = this.cursor.map((each, k) => each && `${this.names[k]} ${each.map((v) => v.toFixed(1)).join(", ")} px`);
    this.readout.textContent = told.filter(Boolean).join("  ·  ");
    this.redraw();
  }

  key(event) {
    if (event.target.tagName === "INPUT" && event.key.startsWith("Arrow")) return;
    if (event.key === " " && event.target.tagName === "BUTTON") return;
    if (!this.tool?.key?.(event) && !this.ownKey(event)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  ownKey({ key, ctrlKey, metaKey, altKey }) {
    if (ctrlKey || metaKey || altKey) return false;
    const pane = this.panes.find((each) => each.canvas === document.activeElement) || this.panes[0];
    const middle = pane.size.map((side) => side / 2), step = 60;
    const amount = (by) => this.setAmount(this.amounts[this.mode] + by);
    const mode = Object.keys(MODES)[Number(key) - 1];
    const acts = {
      "+": () => pane.zoomAt(middle, 1.25), "=": () => pane.zoomAt(middle, 1.25), "-": () => pane.zoomAt(middle, 0.8),
      0: () => this.fit(), "[": () => amount(-0.04), "]": () => amount(0.04), "?": () => this.toggleHelp(),
      " ": () => this.flip(), l: () => (this.linked = !this.linked), e: () => (this.loupes = !this.loupes),
      ArrowLeft: () => pane.move(step, 0), ArrowRight: () => pane.move(-step, 0),
      ArrowUp: () => pane.move(0, step), ArrowDown: () => pane.move(0, -step),
    };
    const act = mode ? () => this.setMode(mode) : acts[key];
    if (!act) return false;
    act();
    this.redraw();
    return true;
  }

  // -------------------------------------------------------------- drawing

  redraw() {
    if (this.dirty) return;
    this.dirty = true;
    requestAnimationFrame(() => {
      this.dirty = false;
      for (const pane of this.panes) if (pane.size[0] && !pane.box.hidden) this.draw(pane);
      this.tool?.drawAll?.();
    });
  }

  draw(pane) {
    const { context } = pane;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "black";
    context.fillRect(0, 0, pane.canvas.width, pane.canvas.height);
    if (this.mode === "side") pane.drawLayer(pane.side ? this.layers.moving : this.layers.fixed);
    else this.drawMixed(pane);
    pane.flat();
    if (this.mode === "side" && this.panes[1]) label(context, this.names[pane.side], 12, pane.size[1] - 14);
    this.tool?.draw?.(pane);
    const place = this.cursor[pane.side], mark = this.mode === "side" && place;
    if (mark && this.panes[1]) crosshair(context, pane.toScreen(place), YELLOW);
    pane.loupe.hidden = !this.loupes || !mark;
    if (!pane.loupe.hidden) this.drawLoupe(pane, place);
  }

  drawMixed(pane) {
    const { flipped, scratch, names } = this;
    const settings = { amount: this.amounts[this.mode], flipped, scratch, names, pointer: this.cursor[0] };
    MODES[this.mode].draw(pane, this.layers, settings);
  }

  /** A corner of the pane shows a place enlarged, in the middle of a small canvas. */
  drawLoupe(pane, place) {
    const { loupe, ratio } = pane, side = LOUPE_PX * ratio;
    if (loupe.width !== side) loupe.width = loupe.height = side;
    const context = loupe.getContext("2d"), size = [LOUPE_PX, LOUPE_PX];
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "black";
    context.fillRect(0, 0, side, side);
    const view = { ...pane.view, x: place[0], y: place[1], zoom: Math.max(pane.view.zoom * LOUPE_ZOOM, 1) };
    pane.drawLayer(pane.side ? this.layers.moving : this.layers.fixed, context, view, size);
    crosshair(context, [LOUPE_PX / 2, LOUPE_PX / 2], YELLOW, 4, 14);
  }
}
