// The screen: toolbar, one or two panes, what stands below them, and how all is drawn.

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

/** What is seen; `Stage` says what happens. */
class Screen {
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
