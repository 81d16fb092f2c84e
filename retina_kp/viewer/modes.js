// Ways to look at two images of one frame: the fixed one, and the moving one warped into it.

const SWIPE_GRAB_PX = 14;

/** Each mode: its button, its key is its place from 1, what the slider sets (or nothing), and how it draws. */
const MODES = {
  side: { title: "Side by side", slider: "", start: 0 },
  swipe: { title: "Swipe", slider: "position of the line", start: 0.5, draw: drawSwipe },
  blend: { title: "Blend", slider: "share of the moving image", start: 0.5, draw: drawBlend },
  flicker: { title: "Flicker", slider: "speed", start: 0.4, draw: drawFlicker },
  checker: { title: "Checkerboard", slider: "size of the tiles", start: 0.5, draw: drawChecker },
  overlay: { title: "Overlay", slider: "", start: 0, draw: drawOverlay },
  lens: { title: "Lens", slider: "size of the lens", start: 0.4, draw: drawLens },
};

/** Draw the warped image inside an outline that `trace` adds to the path. */
function drawInside(pane, layers, trace) {
  const { context } = pane;
  context.save();
  pane.flat();
  context.beginPath();
  trace(context);
  context.clip();
  context.fillRect(0, 0, ...pane.size);
  pane.drawLayer(layers.warped);
  context.restore();
}

function drawSwipe(pane, layers, { amount, names }) {
  const { context, size } = pane, line = amount * size[0];
  pane.drawLayer(layers.fixed);
  drawInside(pane, layers, (path) => path.rect(line, 0, size[0], size[1]));
  context.fillStyle = "white";
  context.fillRect(line - 1, 0, 2, size[1]);
  for (const [text, align, left] of [[names[0], "right", line - 10], [names[1], "left", line + 10]])
    label(context, text, left, size[1] - 14, align);
}

function drawBlend(pane, layers, { amount, scratch }) {
  pane.drawLayer(layers.fixed);
  const { canvas, context } = pane;
  if (scratch.width !== canvas.width || scratch.height !== canvas.height)
    Object.assign(scratch, { width: canvas.width, height: canvas.height });
  const aside = scratch.getContext("2d");
  pane.flat(aside);
  aside.fillRect(0, 0, ...pane.size);
  pane.drawLayer(layers.warped, aside);
  context.globalAlpha = amount;
  context.drawImage(scratch, 0, 0, ...pane.size);
  context.globalAlpha = 1;
}

function drawFlicker(pane, layers, { flipped, names }) {
  pane.drawLayer(flipped ? layers.warped : layers.fixed);
  label(pane.context, names[flipped ? 1 : 0], 12, pane.size[1] - 14, "left");
}

/** Tiles lie on the retina, not on the screen: their side is a power of two in px of the image. */
function drawChecker(pane, layers, { amount }) {
  const side = 2 ** Math.round(Math.log2((40 * 6 ** amount) / pane.view.zoom));
  const reach = Math.hypot(...pane.size) / 2 / pane.view.zoom, { x, y } = pane.view;
  pane.drawLayer(layers.fixed);
  drawInside(pane, layers, (path) => {
    pane.aim(path);
    for (let row = Math.floor((y - reach) / side); row * side < y + reach; row++)
      for (let column = Math.floor((x - reach) / side); column * side < x + reach; column++)
        if ((row + column) & 1) path.rect(column * side - 0.5, row * side - 0.5, side, side);
    pane.flat(path);
  });
}

function drawOverlay(pane, layers) {
  pane.drawLayer(layers.overlay);
}

function drawLens(pane, layers, { amount, pointer }) {
  pane.drawLayer(layers.fixed);
  const [left, top] = pointer ? pane.toScreen(pointer) : pane.size.map((side) => side / 2);
  const radius = 50 + 200 * amount;
  drawInside(pane, layers, (path) => path.arc(left, top, radius, 0, 7));
  pane.context.strokeStyle = "white";
  pane.context.lineWidth = 2;
  pane.context.beginPath();
  pane.context.arc(left, top, radius, 0, 7);
  pane.context.stroke();
}

// ------------------------------------------------------------------ marks, seen on black and on white

function label(context, text, left, top, align = "left", color = "white") {
  context.font = "600 13px system-ui, sans-serif";
  context.textAlign = align;
  context.textBaseline = "middle";
  context.lineWidth = 4;
  context.lineJoin = "round";
  context.strokeStyle = "rgba(0, 0, 0, 0.75)";
  context.strokeText(text, left, top);
  context.fillStyle = color;
  context.fillText(text, left, top);
  context.fillStyle = "black";
}

/** Stroke a path twice, dark and broad below a colour. */
function strokeOn(context, color, width, trace, dash = []) {
  for (const [style, extra] of [["rgba(0, 0, 0, 0.7)", 2.5], [color, 0]]) {
    context.beginPath();
    trace(context);
    context.setLineDash(extra ? [] : dash);
    context.strokeStyle = style;
    context.lineWidth = width + extra;
    context.stroke();
  }
  context.setLineDash([]);
}

function crosshair(context, [left, top], color, gap = 5, arm = 16) {
  strokeOn(context, color, 1.5, (path) => {
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      path.moveTo(left + gap * dx, top + gap * dy);
      path.lineTo(left + arm * dx, top + arm * dy);
    }
  });
}
