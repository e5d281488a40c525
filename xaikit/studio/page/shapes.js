// Which positions a shape covers: pixels whose centres lie inside. Positions are places in a flat grid of width x height.

export function rectangle(flags, width, height, x0, y0, x1, y1) {
  const [left, right] = [Math.max(0, Math.floor(Math.min(x0, x1))), Math.min(width - 1, Math.floor(Math.max(x0, x1)))];
  const [top, bottom] = [Math.max(0, Math.floor(Math.min(y0, y1))), Math.min(height - 1, Math.floor(Math.max(y0, y1)))];
  for (let y = top; y <= bottom; y += 1) flags.fill(1, y * width + left, y * width + right + 1);
}

// A round brush of a diameter in pixels, moved along a line; of diameter 1 the pixels under the line.
export function brush(flags, width, height, x0, y0, x1, y1, diameter) {
  const steps = Math.max(1, Math.ceil(2 * Math.hypot(x1 - x0, y1 - y0)));
  for (let i = 0; i <= steps; i += 1) {
    const x = x0 + (x1 - x0) * i / steps;
    const y = y0 + (y1 - y0) * i / steps;
    if (diameter <= 1) {
      if (x >= 0 && y >= 0 && x < width && y < height) flags[Math.floor(y) * width + Math.floor(x)] = 1;
      continue;
    }
    const r = diameter / 2;
    for (let row = Math.max(0, Math.ceil(y - r - 0.5)); row <= Math.min(height - 1, Math.floor(y + r - 0.5)); row += 1) {
      const half = Math.sqrt(Math.max(0, r * r - (row + 0.5 - y) ** 2));
      const from = Math.max(0, Math.ceil(x - half - 0.5));
      const to = Math.min(width - 1, Math.floor(x + half - 0.5));
      if (to >= from) flags.fill(1, row * width + from, row * width + to + 1);
    }
  }
}

// A closed outline; where it crosses itself, inside is what an odd number of edges surrounds.
export function polygon(flags, width, height, points) {
  for (let row = 0; row < height; row += 1) {
    const y = row + 0.5;
    const crossings = [];
    for (let i = 0; i < points.length; i += 1) {
      const [x0, y0] = points[i];
      const [x1, y1] = points[(i + 1) % points.length];
      if ((y0 <= y) !== (y1 <= y)) crossings.push(x0 + (y - y0) * (x1 - x0) / (y1 - y0));
    }
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const from = Math.max(0, Math.ceil(crossings[i] - 0.5));
      const to = Math.min(width, Math.ceil(crossings[i + 1] - 0.5));
      if (to > from) flags.fill(1, row * width + from, row * width + to);
    }
  }
}

export function toRuns(flags) {
  const runs = [];
  for (let i = 0; i < flags.length; i += 1) {
    if (!flags[i]) continue;
    const start = i;
    while (i < flags.length && flags[i]) i += 1;
    runs.push(start, i - start);
  }
  return runs;
}

export function fromRuns(flags, runs) {
  flags.fill(0);
  for (let i = 0; i < runs.length; i += 2) flags.fill(1, runs[i], runs[i] + runs[i + 1]);
}
