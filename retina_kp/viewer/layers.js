// Layers: images as pyramids of JPEG tiles, decoded when they come into view.

const MOST_TILES = 320; // decoded at a time; a tile takes a megabyte

class Layer {
  /** spec: what `scenes.layer` makes; redraw: called when a tile has been decoded. */
  constructor(spec, redraw) {
    Object.assign(this, spec);
    this.redraw = redraw;
    this.tiles = new Map(); // "level/number" -> ImageBitmap, null while it is decoded
  }

  bitmap(level, number) {
    const key = `${level}/${number}`;
    const known = this.tiles.get(key);
    if (known === undefined) {
      this.tiles.set(key, null);
      const jpeg = new Blob([bytesOf(this.levels[level].tiles[number])], { type: "image/jpeg" });
      createImageBitmap(jpeg).then((bitmap) => this.keep(key, bitmap));
    }
    return known;
  }

  keep(key, bitmap) {
    this.tiles.delete(key);
    if (this.tiles.size >= MOST_TILES) {
      const oldest = [...this.tiles.keys()].find((each) => !each.startsWith("0/") && this.tiles.get(each));
      this.tiles.get(oldest)?.close();
      this.tiles.delete(oldest);
    }
    this.tiles.set(key, bitmap);
    this.redraw();
  }

  /** Draw what a pane's view shows. context: its units are px of the image; corners: of the view, places. */
  draw(context, zoom, corners) {
    const wanted = this.levels.findIndex((level) => level.hw[1] / this.hw[1] >= zoom * 0.99);
    const level = wanted < 0 ? this.levels.length - 1 : wanted;
    context.imageSmoothingEnabled = zoom < 6;
    const missing = this.drawLevel(context, level, corners, true);
    if (missing && level) {
      this.drawLevel(context, 0, corners, false);
      this.drawLevel(context, level, corners, false);
    }
  }

  /** Returns how many tiles of a level are not there yet; with `check` nothing is drawn if there are any. */
  drawLevel(context, number, corners, check) {
    const level = this.levels[number], sx = this.hw[1] / level.hw[1], sy = this.hw[0] / level.hw[0];
    const rows = Math.ceil(level.hw[0] / this.tile);
    const range = (k, scale, count) => {
      const places = corners.map((corner) => (corner[k] + 0.5) / (scale * this.tile));
      return [clamp(Math.floor(Math.min(...places)), 0, count), clamp(Math.ceil(Math.max(...places)), 0, count)];
    };
    const [left, right] = range(0, sx, level.columns), [top, bottom] = range(1, sy, rows);
    const seen = [];
    for (let row = top; row < bottom; row++)
      for (let column = left; column < right; column++)
        seen.push([column, row, this.bitmap(number, row * level.columns + column)]);
    const missing = seen.filter((each) => !each[2]).length;
    if (missing && check) return missing;
    for (const [column, row, bitmap] of seen)
      if (bitmap) {
        const place = [column * this.tile * sx - 0.5, row * this.tile * sy - 0.5];
        context.drawImage(bitmap, ...place, bitmap.width * sx, bitmap.height * sy);
      }
    return missing;
  }
}
