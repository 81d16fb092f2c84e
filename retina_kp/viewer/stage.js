// The stage: ways to look, moving about, what the keys do, and the pointer that is marked in both images.

class Stage extends Screen {
  /** root: an element; scene: of `scenes`; send: gives a message to Python, does nothing in a page. */
  constructor(root, scene, send = () => {}) {
    super();
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
    const before = this.mapped;
    this.layers = { ...this.own, ...this.built(layers) };
    if (maps) this.setMaps(maps);
    if (!this.offers(this.mode)) this.setMode("side");
    this.refresh();
    if (!before) this.follow(this.panes[0]); // later ones would move the pane under the pointer
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
}
