// Small charts in SVG: axes, dots that can be chosen, lines.

function svg(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

const MARKS = {
  circle: "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0",
  square: "M-5,-5h10v10h-10z",
  diamond: "M0,-6.5l6.5,6.5l-6.5,6.5l-6.5,-6.5z",
  triangle: "M0,-6.5l6,11h-12z",
  cross: "M-5,-5l10,10M5,-5l-10,10",
};
MARKS.ring = MARKS.circle;

/** How a mark is painted; some are hollow. */
function paint(shape, color) {
  if (["ring", "diamond", "cross"].includes(shape)) return { fill: "transparent", stroke: color, "stroke-width": 2 };
  return { fill: color, stroke: "rgba(0, 0, 0, 0.6)", "stroke-width": 0.7 };
}

/** A chart's frame. x, y: {label, low, high, log, ticks: [[value, text], …]}. `at` gives the place of two values. */
class Chart {
  constructor(label, x, y, width = 320, height = 280) {
    Object.assign(this, { x, y, box: { left: 58, top: 10, right: width - 10, bottom: height - 42 } });
    this.root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label });
    const { left, top, right, bottom } = this.box;
    this.root.append(svg("path", { class: "axis", d: `M${left},${top}V${bottom}H${right}` }));
    for (const [value, text] of x.ticks)
      this.text(this.at(value, y.low)[0], bottom + 15, text, { "text-anchor": "middle" });
    for (const [value, text] of y.ticks) this.text(left - 6, this.at(x.low, value)[1] + 4, text, { "text-anchor": "end" });
    this.text((left + right) / 2, height - 8, x.label, { "text-anchor": "middle" });
    const middle = (top + bottom) / 2;
    this.text(12, middle, y.label, { "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` });
  }

  text(left, top, words, attributes = {}) {
    this.root.append(svg("text", { x: left, y: top, ...attributes }, words));
  }

  at(x, y) {
    const share = (axis, value) => {
      const scale = axis.log ? Math.log : (each) => each;
      return (scale(clamp(value, axis.low, axis.high)) - scale(axis.low)) / (scale(axis.high) - scale(axis.low));
    };
    const { left, top, right, bottom } = this.box;
    return [left + share(this.x, x) * (right - left), bottom - share(this.y, y) * (bottom - top)];
  }

  /** A horizontal line with words above its end. */
  level(y, words) {
    const [right, height] = this.at(this.x.high, y);
    this.root.append(svg("path", { class: "axis", "stroke-dasharray": "4 3", d: `M${this.box.left},${height}H${right}` }));
    this.text(right, height - 4, words, { "text-anchor": "end" });
  }

  line(places, color) {
    const d = places.map((place, k) => `${k ? "L" : "M"}${this.at(...place).join(",")}`).join("");
    this.root.append(svg("path", { d, fill: "none", stroke: color, "stroke-width": 1.8 }));
  }

  /** A mark; with `act` it can be clicked, or reached with Tab and pressed with Enter. */
  dot([x, y], { shape, color, title = "", act = null, chosen = false }) {
    const [left, top] = this.at(x, y);
    const made = svg("path", { d: MARKS[shape], transform: `translate(${left} ${top})`, ...paint(shape, color) });
    made.append(svg("title", {}, title));
    if (chosen) made.classList.add("chosen");
    if (act) {
      for (const [key, value] of [["role", "button"], ["tabindex", 0], ["aria-label", title]]) made.setAttribute(key, value);
      made.addEventListener("click", act);
      made.addEventListener("keydown", (event) => event.key === "Enter" && act());
    }
    this.root.append(made);
    return made;
  }
}
