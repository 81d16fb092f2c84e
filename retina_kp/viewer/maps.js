// Where a place of one image lies in the other. Places are [x, y] px, the centre of the top-left pixel is [0, 0].

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Bytes of a value that came through a widget (a DataView) or in a page (base64). */
function bytesOf(value) {
  if (typeof value === "string") return Uint8Array.from(atob(value), (letter) => letter.charCodeAt(0));
  return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
}

/** A function of a place that gives its place in the other image, or null. It reads a grid of `sampled`, linearly. */
function mapFrom(grid) {
  if (!grid) return () => null;
  const [h, w] = grid.hw, n = grid.samples, xy = new Float32Array(bytesOf(grid.xy).slice().buffer);
  return ([x, y]) => {
    const u = (x / (w - 1)) * (n - 1), v = (y / (h - 1)) * (n - 1);
    const i = clamp(Math.floor(u), 0, n - 2), j = clamp(Math.floor(v), 0, n - 2);
    const read = (row, column, k) => xy[2 * (row * n + column) + k];
    const along = (row, k) => (i + 1 - u) * read(row, i, k) + (u - i) * read(row, i + 1, k);
    const place = [0, 1].map((k) => (j + 1 - v) * along(j, k) + (v - j) * along(j + 1, k));
    return place.every(Number.isFinite) ? place : null;
  };
}

/** How a map turns (radians) and scales around a place; null where it knows none. */
function localShape(map, [x, y], step = 8) {
  const [left, right] = [map([x - step, y]), map([x + step, y])];
  if (!left || !right) return null;
  const dx = right[0] - left[0], dy = right[1] - left[1];
  return { turn: Math.atan2(dy, dx), scale: Math.hypot(dx, dy) / (2 * step) };
}
