// Explorers: matches and why each was kept or dropped, labels of PKE as they grow, the pairs of an evaluation.

const FATES = {
  kept: { text: "kept", color: "#35C892", dash: [], width: 1.6 },
  far: { text: "too far off", color: "#FF6A1A", dash: [6, 4], width: 1.4 },
  unlike: { text: "too unlike", color: "#56B4E9", dash: [2, 4], width: 1.2 },
  taken: { text: "not mutual", color: "#CC79A7", dash: [10, 3, 2, 3], width: 1.2 },
};
const HOVER_PX = 9, MANY_LINES = 60;

/** Lines between two images; hovering one enlarges both ends and tells its fate. */
class Matches {
  constructor(stage) {
    Object.assign(this, { stage, matches: stage.scene.matches, near: null, shown: new Set(["kept", "far"]) });
    stage.loupes = true;
    stage.setMode("side");
    this.canvas = make("canvas", { class: "lines", "aria-hidden": "true" });
    stage.box.append(this.canvas);
    const row = make("div", { class: "tools", role: "toolbar", "aria-label": "matches shown" });
    stage.tools.after(row);
    for (const [fate, { text, color }] of Object.entries(FATES)) {
      const count = this.matches.filter((each) => each.fate === fate).length;
      const button = stage.button(`${text} (${count})`, `Show or hide: ${text}`, () => this.toggle(fate, button), row);
      button.style.borderLeft = `6px solid ${color}`;
      button.setAttribute("aria-pressed", this.shown.has(fate));
      button.disabled = !count;
    }
    stage.say("Hold the pointer on a line.");
  }

  toggle(fate, button) {
    if (!this.shown.delete(fate)) this.shown.add(fate);
    button.setAttribute("aria-pressed", this.shown.has(fate));
    this.stage.redraw();
  }

  /** The ends of a match on the box of both panes; null where one is out of view. */
  ends(match) {
    const spots = this.stage.panes.map((pane, k) => {
      const [left, top] = pane.toScreen([match.fixed, match.moving][k]), [w, h] = pane.size;
      return left < 0 || top < 0 || left > w || top > h ? null : [left + pane.box.offsetLeft, top + pane.box.offsetTop];
    });
    return spots.includes(null) ? null : spots;
  }

  hover(pane, place) {
    if (!place || this.stage.mode !== "side") return;
    const [left, top] = pane.toScreen(place), spot = [left + pane.box.offsetLeft, top + pane.box.offsetTop];
    let nearest = HOVER_PX;
    this.near = null;
    for (const match of this.matches) {
      const ends = this.shown.has(match.fate) && this.ends(match), gap = ends ? toSegment(spot, ...ends) : Infinity;
      if (gap < nearest) [this.near, nearest] = [match, gap];
    }
    if (!this.near) return;
    this.stage.cursor = [this.near.fixed, this.near.moving];
    this.stage.say(`${this.near.why}\nsimilarity ${this.near.similarity.toFixed(2)}`);
  }

  drawAll() {
    const { canvas, stage } = this, ratio = stage.panes[0].ratio, context = canvas.getContext("2d");
    const size = [stage.box.clientWidth * ratio, stage.box.clientHeight * ratio].map(Math.round);
    canvas.hidden = stage.mode !== "side";
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, ...size);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const seen = this.matches.filter((each) => this.shown.has(each.fate)).map((each) => [each, this.ends(each)]);
    const drawn = seen.filter(([, ends]) => ends), faint = drawn.length > MANY_LINES || this.near;
    for (const [match, ends] of drawn) this.line(context, FATES[match.fate], ends, faint ? 0.22 : 0.7);
    const ends = this.near && this.ends(this.near);
    if (ends) strokeOn(context, "white", 2.5, (path) => ends.forEach((end, k) => path[k ? "lineTo" : "moveTo"](...end)));
  }

  /** A line, and a dot at either end. */
  line(context, { color, dash, width }, ends, alpha) {
    Object.assign(context, { strokeStyle: color, fillStyle: color, lineWidth: width, globalAlpha: alpha });
    context.setLineDash(dash);
    context.beginPath();
    context.moveTo(...ends[0]);
    context.lineTo(...ends[1]);
    context.stroke();
    context.setLineDash([]);
    context.globalAlpha = 1;
    for (const [left, top] of ends) context.fillRect(left - 2, top - 2, 4, 4);
  }
}

/** Distance of a spot from the segment between two others. */
function toSegment([x, y], [x0, y0], [x1, y1]) {
  const dx = x1 - x0, dy = y1 - y0, along = clamp(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy || 1), 0, 1);
  return Math.hypot(x - x0 - along * dx, y - y0 - along * dy);
}

// ------------------------------------------------------------------ labels of PKE

/** One sample over its visits: a slider, and the life of a place that is clicked. */
class Labels {
  constructor(stage) {
    Object.assign(this, { stage, pages: stage.scene.pages, page: stage.scene.pages.length - 1, chosen: null });
    this.slider = make("input", { type: "range", min: 0, max: this.page, step: 1, value: this.page });
    this.text = make("span");
    this.slider.addEventListener("input", () => this.turn(Number(this.slider.value)));
    stage.tools.prepend(make("label", { class: "amount" }, "visit", this.slider, this.text));
    this.side = make("div", { class: "beside" });
    stage.box.append(this.side);
    stage.listKeys([["n, p", "next, previous visit"], ["click", "the life of a place"]]);
    stage.say("■ label   ● remembered, larger with its value   ○ annotated");
    this.turn(this.page);
    this.tell();
  }

  turn(page) {
    this.page = clamp(page, 0, this.pages.length - 1);
    this.slider.value = this.page;
    const { visit, epoch, places } = this.pages[this.page], labels = places.filter((place) => place[3]).length;
    this.text.textContent = `${visit} (epoch ${epoch.toFixed(1)}): ${labels} labels, ${places.length} places`;
    this.stage.redraw();
  }

  key({ key }) {
    const by = { n: 1, p: -1 }[key];
    if (by) this.turn(this.page + by);
    return Boolean(by);
  }

  click(pane, place) {
    const distance = ([x, y]) => Math.hypot(x - place[0], y - place[1]);
    const all = this.pages.flatMap((page) => page.places), nearest = all.sort((a, b) => distance(a) - distance(b))[0];
    this.chosen = nearest && distance(nearest) * pane.view.zoom < 2 * HOVER_PX ? nearest.slice(0, 2) : null;
    this.tell();
    this.stage.redraw();
  }

  /** [visit, value, is a label] of the chosen place at each page that has it. */
  life() {
    const [x, y] = this.chosen;
    return this.pages.flatMap(({ visit, places }) => {
      const found = places.find((place) => place[0] === x && place[1] === y);
      return found ? [[visit, found[2], found[3]]] : [];
    });
  }

  /** The visits that voted for the chosen place, against it, or not at all: its value rose, fell or stayed. */
  votes(life) {
    const told = { "found at": [], "missed at": [], "out of view at": [] };
    life.forEach(([visit, value], k) => {
      const step = value - (k ? life[k - 1][1] : 0);
      const full = step === 0 && value >= this.stage.scene.value_max;
      told[step > 0 || full ? "found at" : step < 0 ? "missed at" : "out of view at"].push(visit + (full ? "?" : ""));
    });
    return Object.entries(told).filter(([, visits]) => visits.length).map(([what, visits]) => `${what} visit ${visits.join(", ")}`);
  }

  tell() {
    const { scene } = this.stage, last = this.pages.at(-1).visit;
    this.side.replaceChildren(make("p", {}, "Click a place to see its life: who voted for it, and when it was a label."));
    if (!this.chosen) return;
    const life = this.life(), ticks = [...new Set([1, Math.ceil(last / 2), last])].map((v) => [v, v]);
    const y = { label: "value", low: 0, high: scene.value_max, ticks: [0, scene.demotion, scene.promotion, scene.value_max].map((v) => [v, v]) };
    const chart = new Chart("life of the place", { label: "visit (filled: a label)", low: 0, high: last + 1, ticks }, y);
    chart.level(scene.promotion, "becomes a label");
    chart.level(scene.demotion, "ceases to be one");
    chart.line(life, SKY);
    for (const [visit, value, isLabel] of life)
      chart.dot([visit, value], { shape: isLabel ? "circle" : "ring", color: SKY, title: `visit ${visit}: ${value}` });
    const words = this.votes(life).map((line) => make("div", {}, line));
    const gone = life.at(-1)[0] < last ? [make("div", {}, "forgotten since")] : [];
    this.side.replaceChildren(make("strong", {}, `place ${this.chosen.join(", ")} px`), chart.root, ...words, ...gone);
  }

  draw(pane) {
    const { context } = pane, { scene } = this.stage;
    const ring = (xy, radius, color, width) => {
      const [left, top] = pane.toScreen(xy);
      strokeOn(context, color, width, (path) => path.arc(left, top, radius, 0, 7));
    };
    for (const xy of scene.annotated) ring(xy, 9, "white", 1.5);
    for (const [x, y, value, isLabel] of this.pages[this.page].places) {
      const [left, top] = pane.toScreen([x, y]), size = isLabel ? 5 : 2 + value / 2;
      context.beginPath();
      if (isLabel) context.rect(left - size, top - size, 2 * size, 2 * size);
      else context.arc(left, top, size, 0, 7);
      Object.assign(context, { fillStyle: isLabel ? YELLOW : SKY, strokeStyle: "black", lineWidth: 2 });
      context.stroke();
      context.fill();
    }
    context.fillStyle = "black";
    if (this.chosen) ring(this.chosen, 13, PURPLE, 2.5);
  }
}

// ------------------------------------------------------------------ pairs of an evaluation

/** A chart of all pairs; the one that is clicked is shown beside it. */
class Pairs {
  constructor(stage) {
    Object.assign(this, { stage, dots: stage.scene.dots, chosen: stage.scene.chosen });
    const { x, y, looks } = stage.scene.chart, chart = new Chart("all pairs", x, y, 320, 330);
    if (y.level) chart.level(...y.level);
    this.dots.forEach((dot, k) => {
      const pick = () => this.pick(k);
      const made = chart.dot([dot.x, dot.y], { ...looks[dot.outcome], title: dot.title, act: pick, chosen: k === this.chosen });
      made.dataset.pair = k;
    });
    const key = Object.entries(looks).map(([outcome, { shape, color }]) => {
      const mark = svg("svg", { viewBox: "-8 -8 16 16", style: "width:14px;display:inline-block;vertical-align:-2px" });
      mark.append(svg("path", { d: MARKS[shape], ...paint(shape, color) }));
      return make("div", {}, mark, ` ${outcome}`);
    });
    stage.box.prepend(make("div", { class: "beside" }, chart.root, ...key));
    stage.listKeys([["n, p", "next, previous pair, worst first"]]);
    stage.say(`${this.chosen + 1} of ${this.dots.length}, worst first: ${this.dots[this.chosen].title}`);
  }

  pick(k) {
    this.stage.send({ do: "pick", k: (k + this.dots.length) % this.dots.length });
  }

  key({ key }) {
    const by = { n: 1, p: -1 }[key];
    if (by) this.pick(this.chosen + by);
    return Boolean(by);
  }
}
