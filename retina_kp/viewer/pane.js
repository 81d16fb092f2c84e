// A pane: a canvas that shows places of an image, moved by drag, zoomed by wheel, pinch and keys.

const CLICK_PX = 4; // a press that moves less is a click

/** An element with attributes and children. */
function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

class Pane {
  /**
   * hw: size of the image px. on: what to do about its events, each called with the pane: grab(place, event) says
   * whether a drag is taken over, drag(place, event), drop(), click(place, event), hover(place or null), moved().
   */
  constructor(label, hw, on) {
    this.canvas = make("canvas", { tabindex: 0, role: "img", "aria-label": label });
    this.context = this.canvas.getContext("2d");
    this.hw = hw;
    this.on = on;
    this.pointers = new Map();
    this.view = { x: 0, y: 0, zoom: 1, turn: 0 };
    this.size = [0, 0];
    for (const name of ["pointerdown", "pointermove", "pointerup", "pointercancel", "pointerleave", "wheel"])
      this.canvas.addEventListener(name, (event) => this[name](event), { passive: false });
  }

  /** Take the size on screen; a view of all of the image stays one. */
  measure() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    this.ratio = window.devicePixelRatio || 1;
    this.size = [width, height];
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(height * this.ratio);
    if (this.showsAll !== false) this.fit();
  }

  fit() {
    const [h, w] = this.hw, zoom = Math.min(this.size[0] / w, this.size[1] / h);
    Object.assign(this.view, { x: (w - 1) / 2, y: (h - 1) / 2, zoom, turn: 0 });
    this.showsAll = true;
  }

  toScreen([x, y]) {
    const { view } = this, c = Math.cos(view.turn) * view.zoom, s = Math.sin(view.turn) * view.zoom;
    const dx = x - view.x, dy = y - view.y;
    return [this.size[0] / 2 + c * dx - s * dy, this.size[1] / 2 + s * dx + c * dy];
  }

  toPlace([left, top], view = this.view) {
    const c = Math.cos(view.turn) / view.zoom, s = Math.sin(view.turn) / view.zoom;
    const dx = left - this.size[0] / 2, dy = top - this.size[1] / 2;
    return [view.x + c * dx + s * dy, view.y - s * dx + c * dy];
  }

  /** Let a place appear at a spot of the screen. */
  hold(place, spot) {
    this.showsAll = false;
    const [x, y] = this.toPlace(spot);
    this.view.x += place[0] - x;
    this.view.y += place[1] - y;
  }

  zoomAt(spot, factor) {
    const place = this.toPlace(spot), least = Math.min(this.size[0] / this.hw[1], this.size[1] / this.hw[0]) / 4;
    this.view.zoom = clamp(this.view.zoom * factor, least, 40);
    this.hold(place, spot);
    this.on.moved(this);
  }

  move(right, down) {
    const middle = this.size.map((side) => side / 2);
    this.hold(this.toPlace(middle), [middle[0] - right, middle[1] - down]);
    this.on.moved(this);
  }

  /** Set a context's units to px of the image, as `view` of a canvas of so many css px shows it. */
  aim(context = this.context, view = this.view, size = this.size) {
    const c = Math.cos(view.turn) * view.zoom * this.ratio, s = Math.sin(view.turn) * view.zoom * this.ratio;
    const left = (size[0] / 2) * this.ratio, top = (size[1] / 2) * this.ratio;
    context.setTransform(c, s, -s, c, left - c * view.x + s * view.y, top - s * view.x - c * view.y);
  }

  /** Set the context's units to css px. */
  flat(context = this.context) {
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
  }

  /** Draw a layer as this pane's view shows it, or as another view does on a canvas of another size. */
  drawLayer(layer, context = this.context, view = this.view, size = this.size) {
    const half = Math.hypot(...size) / 2 / view.zoom;
    const corners = [[view.x - half, view.y - half], [view.x + half, view.y + half]];
    this.aim(context, view, size);
    layer.draw(context, view.zoom * this.ratio, corners);
    this.flat(context);
  }

  // -------------------------------------------------------------- events

  spot(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  pointerdown(event) {
    if (event.button) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const spot = this.spot(event);
    this.pointers.set(event.pointerId, spot);
    if (this.pointers.size > 1) this.press = null;
    else this.press = { spot, held: this.on.grab(this, this.toPlace(spot), event), far: false };
  }

  pointermove(event) {
    const spot = this.spot(event), before = this.pointers.get(event.pointerId);
    this.on.hover(this, this.toPlace(spot), event);
    if (!before) return;
    if (this.pointers.size === 2) this.pinch(event.pointerId, before, spot);
    this.pointers.set(event.pointerId, spot);
    if (!this.press) return;
    this.press.far ||= Math.hypot(spot[0] - this.press.spot[0], spot[1] - this.press.spot[1]) >= CLICK_PX;
    if (!this.press.far) return;
    if (this.press.held) this.on.drag(this, this.toPlace(spot), event);
    else this.move(spot[0] - before[0], spot[1] - before[1]);
  }

  pinch(pointer, before, spot) {
    const [other] = [...this.pointers].filter(([id]) => id !== pointer).map(([, each]) => each);
    const span = (each) => Math.hypot(each[0] - other[0], each[1] - other[1]);
    if (span(before) > 0) this.zoomAt([(spot[0] + other[0]) / 2, (spot[1] + other[1]) / 2], span(spot) / span(before));
  }

  pointerup(event) {
    const { press } = this;
    this.pointers.delete(event.pointerId);
    this.press = null;
    if (press?.held && press.far) this.on.drop(this);
    else if (press && !press.far) this.on.click(this, this.toPlace(this.spot(event)), event);
  }

  pointercancel(event) {
    this.pointers.delete(event.pointerId);
    this.press = null;
  }

  pointerleave() {
    this.on.hover(this, null);
  }

  /** The wheel zooms where the viewer was clicked, or with Ctrl; else the page scrolls on. */
  wheel(event) {
    if (!event.ctrlKey && !this.canvas.closest(".retina-viewer").contains(document.activeElement)) return;
    event.preventDefault();
    const lines = event.deltaMode ? 20 : 1;
    this.zoomAt(this.spot(event), Math.exp(clamp(-event.deltaY * lines, -240, 240) / 400));
  }
}
