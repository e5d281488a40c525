// Parts: the words of a text, the columns of a table. Each is a switch; Shift takes everything since the last one.

import { h } from "./dom.js";

export class Parts {
  constructor(host) {
    this.host = host;
    this.element = h("div", { class: "part-list", role: "group" });
  }

  show(card) {
    this.card = card;
    this.last = null;
    const largest = Math.max(...card.weights.map(Math.abs), 1e-30);
    const words = card.kind === "text";
    this.element.className = words ? "part-list words" : "part-list columns";
    this.element.setAttribute("aria-label", words ? "Words of the text" : "Columns of the table");
    this.buttons = card.parts.map((part, i) => {
      const share = Math.abs(card.weights[i]) / largest;
      const sign = card.weights[i] > 0 ? "for" : "against";
      const bar = words ? null : h("span", { class: "room" }, h("span", { class: `length ${sign}`, style: { width: `${100 * share}%` } }));
      const value = words || !card.values ? null : h("span", { class: "value" }, card.values[i].toPrecision(3));
      return h("button", {
        type: "button", class: `part token ${sign}`, style: { "--share": words ? share : 0 }, "aria-pressed": "false",
        onclick: (event) => this.switch(i, event.shiftKey),
      }, h("span", { class: "word" }, part), value, bar);
    });
    this.element.replaceChildren(...this.buttons);
    this.draw();
  }

  // Words of all texts are known by their token ids.
  position(i) {
    return this.card.kind === "text" && this.host.scope !== "sample" && this.card.ids ? this.card.ids[i] : i;
  }

  switch(i, range) {
    const from = range && this.last !== null ? this.last : i;
    const erase = this.buttons[i].getAttribute("aria-pressed") === "true";
    const positions = [];
    for (let k = Math.min(from, i); k <= Math.max(from, i); k += 1) positions.push(this.position(k));
    const flags = new Uint8Array(Math.max(...positions) + 1);
    for (const position of positions) flags[position] = 1;
    this.last = i;
    this.host.stroke(flags, erase);
  }

  draw() {
    if (!this.card) return;
    const layers = this.host.layers();
    this.buttons.forEach((button, i) => {
      const strong = layers.some((l) => l.strong && l.flags[this.position(i)]);
      const other = layers.some((l) => !l.strong && l.flags[l.scope === "sample" || this.card.kind !== "text" ? i : this.card.ids[i]]);
      button.setAttribute("aria-pressed", String(strong));
      button.classList.toggle("marked", strong);
      button.classList.toggle("also", other);
      button.dataset.meaning = this.host.meaning;
      button.classList.toggle("suggested", Boolean(this.host.suggestion?.[i]));
    });
  }

  zoom() {}

  giveUp() {}
}
