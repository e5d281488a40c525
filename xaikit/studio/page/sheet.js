// Sheet: what is drawn on with the mouse, a finger or the keyboard: a picture, or the time axis of a series.

import { h } from "./dom.js";
import { curves, tile } from "./cards.js";
import { brush, polygon, rectangle } from "./shapes.js";

const COLOURS = { "must-not-matter": [255, 190, 0], "must-matter": [0, 190, 120] };
const TICKS = 8; // numbers on the screen's part of the axis
const SUGGESTED = [0, 200, 255];

export class Sheet {
  // `host` tells tool, size, erase; and gets strokes: host.stroke(flags, erase).
  constructor(host) {
    this.host = host;
    this.element = h("div", { class: "sheet" });
    this.canvas = h("canvas", {
      class: "marks", tabindex: 0, role: "application",
      "aria-label": "Picture to mark. Arrows move the cross, Space paints or sets a corner, Enter closes a polygon, Escape gives up.",
      onpointerdown: (e) => this.down(e), onpointermove: (e) => this.move(e), onpointerup: (e) => this.up(e),
      onpointercancel: () => this.giveUp(), onkeydown: (e) => this.key(e), ondblclick: () => this.close(),
      onfocus: () => { this.cross.hidden = !this.keyed; }, onblur: () => { this.cross.hidden = true; },
      onpointerleave: () => { this.pointer = null; this.host.pointAt(""); this.draw(); },
    });
    this.cross = h("div", { class: "cross", hidden: true });
    this.points = [];
    this.at = [0, 0];
  }

  show(card, map) {
    this.height = card.kind === "image" ? card.shape[0] : 1;
    this.width = card.shape.at(-1);
    this.isSeries = card.kind === "series";
    const under = this.isSeries ? h("div", { class: "under" }, ...curves(map)) : tile(card, map);
    this.axis = this.isSeries ? h("div", { class: "axis", "aria-hidden": "true" }) : null;
    this.element.style.height = this.isSeries ? `${Math.max(15, 3.4 * map.channels.length) + 1.4}rem` : "";
    this.element.className = `sheet ${card.kind}`;
    this.element.classList.toggle("few-pixels", Math.max(this.width, this.height) <= 64);
    this.canvas.width = this.width;
    this.canvas.height = this.height;
    this.element.replaceChildren(under, ...(this.axis ? [this.axis] : []), this.canvas, this.cross);
    this.context = this.canvas.getContext("2d");
    this.at = [Math.floor(this.width / 2), Math.floor(this.height / 2)];
    this.keyed = false;
    this.cross.hidden = true;
    this.giveUp();
  }

  zoom(pixels) {
    this.scale = pixels;
    this.element.style.width = this.isSeries ? `${100 * pixels}%` : `${this.width * pixels}px`;
    if (!this.isSeries) this.element.style.height = `${this.height * pixels}px`;
    else this.drawAxis(Math.ceil(TICKS * pixels));
    this.placeCross();
  }

  // Numbers of steps below a series, at round ones.
  drawAxis(ticks) {
    const raw = Math.max(1, this.width / ticks);
    const unit = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((n) => n * unit).find((n) => n >= raw);
    const places = Array.from({ length: Math.ceil(this.width / step) }, (_, i) => i * step);
    this.axis.replaceChildren(...places.map((place) => h("span", { style: { left: `${100 * place / this.width}%` } }, place)));
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * this.width, (event.clientY - box.top) / box.height * this.height];
  }

  blank() {
    return new Uint8Array(this.width * this.height);
  }

  get erases() { return this.host.tool === "eraser"; }

  down(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.keyed = false;
    this.cross.hidden = true;
    const place = this.place(event);
    if (this.host.tool === "polygon") {
      this.points.push(place);
      this.draw();
      return;
    }
    this.begin(place);
  }

  begin(place) {
    this.start = place;
    this.last = place;
    this.stroke = this.blank();
    this.extend(place);
  }

  extend(place) {
    if (this.host.tool === "rectangle" || this.isSeries) {
      this.stroke.fill(0);
      rectangle(this.stroke, this.width, this.height, ...this.start, ...this.inside(place));
    } else {
      brush(this.stroke, this.width, this.height, ...this.last, ...place, this.host.size);
    }
    this.last = place;
    this.draw();
  }

  inside([x, y]) {
    return [Math.min(this.width - 1e-6, Math.max(0, x)), Math.min(this.height - 1e-6, Math.max(0, y))];
  }

  move(event) {
    this.pointer = this.place(event);
    const [x, y] = this.inside(this.pointer).map(Math.floor);
    this.host.pointAt(this.isSeries ? `step ${x}` : `column ${x + 1}, row ${y + 1}`);
    if (this.stroke) {
      const events = event.getCoalescedEvents?.() ?? [];
      for (const one of events.length ? events : [event]) this.extend(this.place(one));
    } else if (this.points.length || this.host.tool === "brush" || this.erases) this.draw();
  }

  up(event) {
    if (!this.stroke) return;
    this.extend(this.place(event));
    this.finish();
  }

  finish() {
    const { stroke } = this;
    this.stroke = null;
    this.host.stroke(stroke, this.erases);
  }

  // Close the polygon.
  close() {
    if (this.points.length >= 3) {
      const flags = this.blank();
      polygon(flags, this.width, this.height, this.points);
      this.points = [];
      this.host.stroke(flags, false);
    }
    this.draw();
  }

  giveUp() {
    this.stroke = null;
    this.points = [];
    if (this.context) this.draw();
  }

  key(event) {
    const steps = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    const centre = () => [this.at[0] + 0.5, this.at[1] + 0.5];
    if (event.key in steps && !event.ctrlKey && !event.altKey && !event.metaKey) {
      const by = event.shiftKey ? 10 : 1;
      this.at = this.at.map((v, i) => Math.max(0, Math.min([this.width, this.height][i] - 1, v + by * steps[event.key][i])));
      this.keyed = true;
      this.placeCross();
      if (this.stroke) this.extend(centre());
      else this.draw();
      this.host.say(this.isSeries ? `step ${this.at[0]}` : `column ${this.at[0] + 1}, row ${this.at[1] + 1}`);
    } else if (event.key === " ") {
      this.keyed = true;
      this.placeCross();
      if (this.host.tool === "polygon") { this.points.push(centre()); this.host.say(`corner ${this.points.length}`); this.draw(); }
      else if (this.stroke) { this.finish(); this.host.say("marked"); }
      else { this.begin(centre()); this.host.say(this.host.tool === "rectangle" ? "first corner" : "painting; Space ends it"); }
    } else if (event.key === "Enter") {
      if (this.stroke) this.finish();
      else this.close();
    } else if (event.key === "Escape" && (this.stroke || this.points.length)) {
      this.giveUp();
      this.host.say("given up");
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  placeCross() {
    if (!this.width) return;
    this.cross.hidden = !this.keyed;
    this.cross.style.left = `${(this.at[0]) / this.width * 100}%`;
    this.cross.style.top = `${(this.at[1]) / this.height * 100}%`;
    this.cross.style.width = `${100 / this.width}%`;
    this.cross.style.height = `${100 / this.height}%`;
    if (this.keyed) this.cross.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  draw() {
    const { width, height, context } = this;
    const picture = context.createImageData(width, height);
    const paint = (i, [r, g, b], alpha) => { const o = 4 * i; picture.data[o] = r; picture.data[o + 1] = g; picture.data[o + 2] = b; picture.data[o + 3] = alpha; };
    const layer = (flags, colour, alpha) => {
      if (!flags) return;
      for (let i = 0; i < width * height; i += 1) {
        if (!flags[i]) continue;
        const x = i % width;
        const edge = !(x > 0 && flags[i - 1]) || !(x < width - 1 && flags[i + 1]) || !flags[i - width] || !flags[i + width];
        paint(i, colour, edge && height > 1 && Math.max(width, height) > 64 ? 255 : alpha);
      }
    };
    for (const { flags, meaning, strong } of this.host.layers()) layer(flags, COLOURS[meaning], strong ? 110 : 60);
    layer(this.host.suggestion, SUGGESTED, 140);
    if (this.stroke) {
      for (let i = 0; i < this.stroke.length; i += 1) {
        if (this.stroke[i]) paint(i, this.erases ? [255, 255, 255] : COLOURS[this.host.meaning], 200);
      }
    }
    if (this.points.length) {
      const flags = this.blank();
      const ends = this.pointer && !this.keyed ? [this.pointer] : this.keyed ? [[this.at[0] + 0.5, this.at[1] + 0.5]] : [];
      if (this.points.length + ends.length >= 3) polygon(flags, width, height, [...this.points, ...ends]);
      for (const [x, y] of this.points) flags[Math.min(height - 1, Math.floor(y)) * width + Math.min(width - 1, Math.floor(x))] = 1;
      layer(flags, COLOURS[this.host.meaning], 110);
    }
    context.putImageData(picture, 0, 0);
  }
}
