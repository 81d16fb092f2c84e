// Annotation: pairs of points are clicked, moved, deleted and judged. Python keeps them; this shows its state.

const SKY = "#56B4E9", RED = "#FF6A1A", PURPLE = "#CC79A7", GRAB_PX = 11, SNAP_PX = 16, CLOSE_UP = 2.5;
const ANNOTATE_KEYS = [
  ["click", "a point, then its partner in the other image"],
  ["Enter", "take the proposed partner (dashed ring)"],
  ["drag", "move a point"],
  ["Delete", "remove the chosen point"],
  ["Ctrl+Z, Ctrl+Y", "undo, redo"],
  ["s", "snap to junctions of vessels"],
  ["g", "go to the place where a point would help most"],
  ["n, p", "next, previous pair"],
  ["a, x", "accept, reject the pair"],
];

class Annotate {
  constructor(stage) {
    Object.assign(this, { stage, state: null, chosen: null, held: null, asked: 0 });
    stage.loupes = true;
    const row = make("div", { class: "tools", role: "toolbar", "aria-label": "annotation" });
    stage.tools.after(row);
    const add = (text, title, act) => stage.button(text, title, act, row);
    this.buttons = {
      previous: add("◂ Previous", "Previous pair, key p", () => this.go(-1)),
      next: add("Next ▸", "Next pair, key n", () => this.go(1)),
      undo: add("Undo", "Undo, Ctrl+Z", () => this.act("undo")),
      redo: add("Redo", "Redo, Ctrl+Y", () => this.act("redo")),
      delete: add("Delete", "Remove the chosen point, key Delete", () => this.remove()),
      snap: add("Snap", "Snap to junctions of vessels, key s", () => this.snap()),
      suggest: add("Where next?", "Go to where a point would help most, key g", () => this.suggest()),
      accept: add("Accept", "Accept this pair and go on, key a", () => this.judge("accepted")),
      reject: add("Reject", "Reject this pair and go on, key x", () => this.judge("rejected")),
    };
    this.where = make("strong");
    row.prepend(this.where);
    stage.listKeys(ANNOTATE_KEYS);
  }

  act(name, details = {}) {
    this.stage.send({ do: name, ...details });
  }

  go(by) {
    if (this.state?.place[1] > 1) this.act("go", { by });
  }

  /** Accept or reject; the same verdict again is taken back. */
  judge(verdict) {
    this.act("judge", { verdict: this.state.verdict === verdict ? "" : verdict });
  }

  remove() {
    if (this.chosen === null) return;
    this.act("delete", { k: this.chosen });
    this.chosen = null;
  }

  snap() {
    this.act("snapping", { on: !this.state.snap });
  }

  suggest() {
    const { suggestions } = this.state;
    if (!suggestions.length) return this.stage.say("No junction is left that both images show.");
    const place = suggestions[this.asked++ % suggestions.length];
    this.stage.setMode("side");
    this.stage.goTo(0, place, CLOSE_UP * this.stage.panes[0].size[0] / this.stage.panes[0].hw[1]);
  }

  // -------------------------------------------------------------- what Python says

  update(state) {
    const { buttons } = this, done = state.points.filter((row) => !row.includes(null)).length;
    if (this.state && state.points.length !== this.state.points.length) [this.chosen, this.asked] = [null, 0];
    Object.assign(this, { state, held: null });
    const [place, count] = state.place;
    this.where.textContent = `${state.name}  (${place} of ${count})`;
    buttons.undo.disabled = !state.undo;
    buttons.redo.disabled = !state.redo;
    buttons.previous.disabled = buttons.next.disabled = count < 2;
    for (const [name, on] of [["snap", state.snap], ["accept", state.verdict === "accepted"], ["reject", state.verdict === "rejected"]])
      buttons[name].setAttribute("aria-pressed", on);
    this.stage.say([this.summary(state, done), state.said].filter(Boolean).join("\n"));
    this.stage.redraw();
  }

  summary(state, done) {
    const parts = [`${done} point pair${done === 1 ? "" : "s"}`];
    if (done > 2) {
      const close = state.spread < state.least_spread ? " (too close to one line)" : "";
      parts.push(`spread ${Math.round(100 * state.spread)} % of the image${close}`);
    }
    if (state.residual !== null)
      parts.push(`${state.model}, leave-one-out residual ${state.residual.toFixed(1)} px at 768`);
    if (state.worst !== null) parts.push(`worst: point ${state.worst + 1}, ${state.residuals[state.worst].toFixed(1)} px`);
    if (!done) parts.push(state.start === "ok" ? "the registration proposes partners" : "no registration to start from");
    const review = `${state.accepted} accepted, ${state.rejected} rejected of ${state.place[1]}`;
    return `${parts.join(" · ")}\n${state.not_used ? `not in pairs.csv: ${state.not_used}` : "in pairs.csv"} · ${review}`;
  }

  // -------------------------------------------------------------- the pointer

  half() {
    const row = this.state?.points.findIndex((each) => each.includes(null)) ?? -1;
    return row < 0 ? null : { row, side: this.state.points[row][0] === null ? 1 : 0 };
  }

  placeOf(k, side) {
    const { held } = this, row = this.state.points[k];
    if (held && held.k === k && held.side === side) return held.xy;
    return row[2 * side] === null ? null : row.slice(2 * side, 2 * side + 2);
  }

  near(pane, place) {
    const [left, top] = pane.toScreen(place);
    const distance = (k) => {
      const xy = this.placeOf(k, pane.side), spot = xy && pane.toScreen(xy);
      return spot ? Math.hypot(spot[0] - left, spot[1] - top) : Infinity;
    };
    const [k] = this.state.points.map((_, each) => each).sort((a, b) => distance(a) - distance(b));
    return k !== undefined && distance(k) <= GRAB_PX ? k : null;
  }

  grab(pane, place) {
    if (!this.state || this.stage.mode !== "side") return false;
    const k = this.near(pane, place);
    if (k !== null) this.chosen = k;
    return k !== null;
  }

  drag(pane, place) {
    this.held = { k: this.chosen, side: pane.side, xy: place };
    this.stage.redraw();
  }

  drop(pane) {
    if (this.held) this.act("move", { ...this.held, reach: SNAP_PX / pane.view.zoom });
  }

  click(pane, place) {
    if (!this.state || this.stage.mode !== "side") return;
    if (this.near(pane, place) === null) return this.put(pane.side, place);
    this.stage.redraw();
  }

  put(side, xy) {
    this.act("click", { side, xy, reach: SNAP_PX / this.stage.panes[side].view.zoom });
  }

  /** The partner of the half pair by the map; null without either. */
  proposal() {
    const half = this.half();
    if (!half) return null;
    const xy = this.stage.maps[half.side](this.placeOf(half.row, half.side));
    return xy && { side: 1 - half.side, xy };
  }

  key({ key, ctrlKey, metaKey, shiftKey }) {
    if (!this.state) return false;
    if (ctrlKey || metaKey) {
      const redo = key === "y" || (key.toLowerCase() === "z" && shiftKey);
      if (!redo && key !== "z") return false;
      this.act(redo ? "redo" : "undo");
      return true;
    }
    const proposal = this.proposal();
    const acts = {
      Enter: proposal && (() => this.put(proposal.side, proposal.xy)),
      Delete: () => this.remove(), Backspace: () => this.remove(), s: () => this.snap(), g: () => this.suggest(),
      n: () => this.go(1), p: () => this.go(-1), a: () => this.judge("accepted"), x: () => this.judge("rejected"),
    };
    acts[key]?.();
    return Boolean(acts[key]);
  }

  // -------------------------------------------------------------- marks

  draw(pane) {
    if (!this.state || (this.stage.mode !== "side" && pane.side)) return;
    const { context } = pane;
    if (!pane.side && this.stage.mode === "side") for (const xy of this.state.suggestions) this.diamond(pane, xy);
    this.state.points.forEach((_, k) => {
      const xy = this.placeOf(k, pane.side);
      if (xy) this.mark(pane, xy, k);
    });
    const proposal = this.proposal();
    if (proposal?.side !== pane.side) return;
    const [left, top] = pane.toScreen(proposal.xy);
    strokeOn(context, YELLOW, 2, (path) => path.arc(left, top, 10, 0, 7), [4, 4]);
    label(context, "Enter", left + 15, top, "left", YELLOW);
  }

  /** The worst point is a square, all others are rings: no colour is needed to tell. */
  mark(pane, xy, k) {
    const { context } = pane, [left, top] = pane.toScreen(xy), { worst, points } = this.state;
    const color = k === worst ? RED : points[k].includes(null) ? YELLOW : SKY;
    const trace = (path) => (k === worst ? path.rect(left - 7, top - 7, 14, 14) : path.arc(left, top, 7, 0, 7));
    strokeOn(context, color, k === this.chosen ? 4 : 2, trace);
    strokeOn(context, color, 1, (path) => path.arc(left, top, 0.5, 0, 7));
    label(context, String(k + 1), left + 11, top - 9, "left", color);
  }

  diamond(pane, xy) {
    const [left, top] = pane.toScreen(xy);
    strokeOn(pane.context, PURPLE, 2, (path) => {
      path.moveTo(left, top - 8);
      for (const [dx, dy] of [[8, 0], [0, 8], [-8, 0]]) path.lineTo(left + dx, top + dy);
      path.closePath();
    });
  }
}
