// One sample: look closely, and mark.

import { get, post } from "./api.js";
import { facts, parts } from "./cards.js";
import { field, h, option } from "./dom.js";
import { Layers } from "./layers.js";
import { Parts } from "./parts.js";
import { fromRuns } from "./shapes.js";
import { Sheet } from "./sheet.js";

const LOOK_AGAIN = 3000; // ms until the mark is asked for again: others may change it
const TOOLS = [["rectangle", "Rectangle", "R"], ["polygon", "Polygon", "P"], ["brush", "Brush", "B"], ["eraser", "Eraser", "E"]];

export class MarkView {
  constructor(root, app) {
    this.app = app;
    this.tool = "rectangle";
    this.size = 3;
    this.meaning = "must-not-matter";
    this.scope = "sample";
    this.shown = 0;
    this.suggestion = null;
    this.layerSet = new Layers(app, () => this.refresh());
    this.surface = ["image", "series"].includes(app.state.kind) ? new Sheet(this) : new Parts(this);
    this.build(root);
    window.addEventListener("resize", () => { if (this.visible) this.fit(); });
    setInterval(() => { if (this.visible) this.layerSet.refresh(this.layer).catch(() => {}); }, LOOK_AGAIN);
  }

  build(root) {
    const { kind } = this.app.state;
    const drawn = kind === "image";
    const radio = (name, values, chosen, changed, legend) => h("fieldset", { class: `choices ${name}` }, h("legend", {}, legend),
      ...values.map(([value, text, key]) => h("label", {}, h("input", { type: "radio", name, value, checked: value === chosen, onchange: () => changed(value) }),
        h("span", {}, text, key ? h("kbd", {}, key) : null))));
    this.tools = drawn ? radio("tool", TOOLS, this.tool, (v) => this.setTool(v), "Draw")
      : kind === "series" ? radio("tool", [["rectangle", "Mark", "R"], ["eraser", "Eraser", "E"]], this.tool, (v) => this.setTool(v), "Draw") : null;
    this.sizeInput = h("input", { type: "range", min: 1, max: 60, value: this.size, oninput: (e) => { this.size = Number(e.target.value); } });
    this.meanings = radio("meaning", [["must-not-matter", "must not matter"], ["must-matter", "must matter"]], this.meaning, (v) => { this.meaning = v; this.refresh(); }, "This");
    this.scopes = radio("scope", [["sample", "this sample"], ["class", "its class"], ["cluster", "its cluster"], ["all", "all samples"]], this.scope, (v) => { this.scope = v; this.refresh(); }, "For");
    this.undoButton = h("button", { type: "button", onclick: () => this.undo() }, "Undo");
    this.redoButton = h("button", { type: "button", onclick: () => this.undo(true) }, "Redo");
    this.closeButton = h("button", { type: "button", hidden: true, onclick: () => this.surface.close() }, "Close the polygon");
    this.threshold = h("input", { type: "range", min: 5, max: 100, value: 50, oninput: () => this.suggest() });
    this.clusterOption = option("cluster", "where the maps of its cluster are strong");
    this.by = h("select", { onchange: () => this.suggest() }, option("", "nothing"), option("sample", "where this map is strong"),
      kind === "text" ? null : option("common", "where the maps of the shown samples are strong"), this.clusterOption);
    this.takeButton = h("button", { type: "button", disabled: true, onclick: () => this.take() }, "Mark the suggestion");
    this.mapChoice = h("select", { onchange: () => { this.shown = Number(this.mapChoice.value); this.showMap(); } });
    this.opacity = h("input", { type: "range", min: 0, max: 100, value: 50, oninput: (e) => this.stage.style.setProperty("--opacity", e.target.value / 100) });
    this.title = h("h2", { tabindex: -1 });
    this.facts = h("div");
    this.saved = h("p", { class: "saved", "aria-live": "polite" });
    this.stage = h("div", { class: "stage", onwheel: (e) => { if (e.ctrlKey) { e.preventDefault(); this.zoomBy(e.deltaY < 0 ? 1.25 : 0.8); } } }, this.surface.element);
    this.stage.style.setProperty("--opacity", 0.5);
    this.besides = h("div", { class: "besides" });
    this.pointed = h("p", { class: "hint", "aria-hidden": "true" }, "\u00a0");
    const zoom = drawn || kind === "series" ? h("div", { class: "buttons" },
      h("button", { type: "button", "aria-label": "larger", onclick: () => this.zoomBy(1.25) }, "+"),
      h("button", { type: "button", "aria-label": "smaller", onclick: () => this.zoomBy(0.8) }, "−"),
      h("button", { type: "button", onclick: () => this.fit() }, "Fit")) : null;
    const files = drawn ? h("details", {}, h("summary", {}, "COCO files"), h("div", { class: "buttons" },
      h("button", { type: "button", onclick: () => this.toCoco() }, "Save as COCO"),
      h("label", { class: "button" }, "Read COCO…", h("input", { type: "file", class: "hidden-file", accept: ".json", onchange: (e) => this.fromCoco(e.target) })))) : null;
    root.append(
      h("div", { class: "work" },
        h("div", { class: "picture" },
          h("div", { class: "line" }, this.title,
            h("div", { class: "buttons" },
              h("button", { type: "button", "aria-label": "the sample before", onclick: () => this.step(-1) }, "‹"),
              h("button", { type: "button", "aria-label": "the next sample", onclick: () => this.step(1) }, "›"), zoom)),
          this.facts, this.stage, this.pointed),
        this.besides,
        h("form", { class: "tools", "aria-label": "Tools", onsubmit: (e) => e.preventDefault() },
          this.meanings, this.scopes, this.tools,
          drawn ? field("Brush size", this.sizeInput) : null, this.closeButton,
          h("div", { class: "buttons" }, this.undoButton, this.redoButton), this.saved,
          drawn || kind === "series" ? field("Map", this.mapChoice) : null, drawn ? field("Map over picture", this.opacity) : null,
          h("details", { class: "suggest" }, h("summary", {}, "Suggest a mark"), field("Suggest", this.by), field("At least this share of the strongest", this.threshold), this.takeButton),
          files, h("p", { class: "where" }, "Files: ", h("code", {}, this.app.state.marks)))));
    this.root = root;
  }

  say(text) { this.app.say(text); }

  pointAt(text) { this.pointed.textContent = text || "\u00a0"; }

  get positions() { return this.app.state.shape.reduce((a, b) => a * b, 1); }

  get layer() { return this.card ? this.layerSet.of(this.meaning, this.scope) : null; }

  layers() {
    const all = [];
    for (const scope of ["all", "class", "cluster", "sample"]) {
      const layer = this.layerSet.of(this.meaning, scope);
      if (layer && scope !== this.scope) all.push({ flags: layer.flags, meaning: this.meaning, scope, strong: false });
    }
    if (this.layer) all.push({ flags: this.layer.flags, meaning: this.meaning, scope: this.scope, strong: true });
    return all;
  }

  async open(position, slot) {
    this.position = position;
    this.slot = slot;
    this.card = null; // until the sample is here, nothing can be marked: the screen still shows the one before
    this.layerSet.forget();
    this.clearSuggestion();
    const after = this.app.look.after.value;
    const [card] = await Promise.all([
      get(`/api/samples/${position}`, { side: 1024, after, scale: this.app.look.query().scale }),
      this.layerSet.load(position, this.positions),
    ]);
    if (position !== this.position) return;
    const chosen = this.app.look.cluster.value; // the cluster that the gallery shows, else the newest
    this.cluster = card.clusters.find(({ group }) => group === chosen) ?? card.clusters[0];
    if (this.cluster) await this.layerSet.load(position, this.positions, ["cluster"], this.cluster.group);
    if (position !== this.position) return;
    this.card = card;
    this.title.textContent = card.name;
    this.facts.replaceChildren(facts(card));
    this.shown = Math.min(this.shown, card.maps.length - 1);
    this.mapChoice.replaceChildren(...(card.kind === "image" ? [option(-1, "none")] : []), ...card.maps.map((map, i) => option(i, map.explainer, i === this.shown)));
    const scope = this.scopes.querySelector("input[value=class]");
    scope.nextSibling.textContent = card.label ? `class ${card.label}` : card.class === null ? "its class" : `class ${card.class}`;
    scope.disabled = card.class === null;
    const cluster = this.scopes.querySelector("input[value=cluster]");
    cluster.parentNode.hidden = !this.cluster;
    cluster.nextSibling.textContent = this.cluster?.title ?? "its cluster";
    if ((this.scope === "cluster" && !this.cluster) || (this.scope === "class" && scope.disabled)) {
      this.scope = "sample";
      this.scopes.querySelector("input[value=sample]").checked = true;
    }
    this.clusterOption.hidden = !this.cluster || card.kind === "text";
    this.showMap();
    this.fit();
    this.refresh();
    await this.offerFactors();
  }

  showMap() {
    if (!this.card) return;
    const map = this.card.maps[this.shown] ?? null;
    this.surface.show(this.card, map ?? (this.card.kind === "series" ? this.card.maps[0] : null));
    this.besides.hidden = this.card.kind !== "image" && this.card.maps.length < 2;
    this.besides.replaceChildren(...(this.besides.hidden ? [] : parts(this.card)));
    this.besides.className = `besides ${this.card.kind}`;
    if (this.pixels) this.surface.zoom(this.pixels);
  }

  fit() {
    if (!this.card || this.card.kind !== "image") { this.pixels = 1; this.surface.zoom(1); return; }
    const [height, width] = this.card.shape;
    const room = this.stage.getBoundingClientRect();
    const high = Math.max(260, innerHeight - room.top - 170);
    this.zoomTo(Math.min((this.stage.clientWidth - 4) / width, high / height));
  }

  zoomTo(pixels) {
    this.pixels = Math.max(0.1, Math.min(200, pixels));
    this.surface.zoom(this.pixels);
  }

  // What is in the middle of the screen stays there.
  zoomBy(factor) {
    if (!["image", "series"].includes(this.card?.kind)) return;
    const { stage } = this;
    const [x, y] = [stage.scrollLeft + stage.clientWidth / 2, stage.scrollTop + stage.clientHeight / 2].map((v, i) => v / (i ? stage.scrollHeight : stage.scrollWidth));
    if (this.card.kind === "image") this.zoomTo(this.pixels * factor);
    else { this.pixels = Math.max(1, Math.min(64, this.pixels * factor)); this.surface.zoom(this.pixels); }
    stage.scrollTo(x * stage.scrollWidth - stage.clientWidth / 2, y * stage.scrollHeight - stage.clientHeight / 2);
  }

  setTool(tool) {
    this.tool = tool;
    this.surface.giveUp();
    this.closeButton.hidden = tool !== "polygon";
    const radio = this.tools?.querySelector(`input[value=${tool}]`);
    if (radio) radio.checked = true;
  }

  stroke(flags, erase) {
    if (!this.layer) return;
    if (this.layerSet.change(this.layer, flags, erase)) this.clearSuggestion();
    else this.refresh();
  }

  undo(redo = false) {
    if (this.layer && (redo ? this.layer.redo : this.layer.undo || this.layerSet.queue.length)) this.layerSet.undo(this.layer, redo);
  }

  refresh() {
    if (!this.card) return;
    const { layer } = this;
    this.undoButton.disabled = !layer?.undo;
    this.redoButton.disabled = !layer?.redo;
    const count = layer ? layer.flags.reduce((a, b) => a + b, 0) : 0;
    const what = { image: "pixels", series: "steps", text: "words", tabular: "columns" }[this.card.kind];
    const waiting = this.layerSet.queue.length;
    const others = this.layers().filter((other) => !other.strong && other.flags.some(Boolean)).map(({ scope }) => ({ all: "all samples", class: "the class", cluster: "the cluster", sample: "this sample" })[scope]);
    const more = others.length ? `; more for ${others.join(" and ")}` : "";
    this.saved.textContent = waiting ? `saving ${waiting} edit${waiting > 1 ? "s" : ""}…` : `${count} ${what} marked, saved${more}`;
    this.surface.draw();
  }

  async suggest() {
    const by = this.by.value;
    clearTimeout(this.suggesting);
    if (!by) { this.clearSuggestion(); this.surface.draw(); return; }
    this.suggesting = setTimeout(async () => {
      const [way, job, number] = by.split(" ");
      try {
        const answer = await post("/api/suggest", { by: way, job, number: Number(number), cluster: this.cluster?.group, position: this.position, threshold: this.threshold.value / 100, filters: this.app.look.query() });
        const last = answer.runs.length ? answer.runs.at(-2) + answer.runs.at(-1) : 0;
        this.suggestion = new Uint8Array(Math.max(last, this.positions));
        fromRuns(this.suggestion, answer.runs);
        this.takeButton.disabled = !answer.runs.length;
        if (!answer.runs.length) this.say("nothing to suggest in this sample");
        this.surface.draw();
      } catch (err) { this.app.fail(err); }
    }, 120);
  }

  take() {
    let flags = this.suggestion;
    if (!flags) return;
    if (this.card.kind === "text" && this.scope !== "sample") {
      const ids = this.card.ids.filter((_, i) => flags[i]);
      flags = new Uint8Array(Math.max(...ids) + 1);
      for (const id of ids) flags[id] = 1;
    }
    this.stroke(flags, false);
  }

  clearSuggestion() {
    this.suggestion = null;
    this.takeButton.disabled = true;
    this.by.value = "";
  }

  // The places that scans found.
  async offerFactors() {
    const scans = this.app.jobs.filter((job) => job.verb === "scan" && job.result);
    if (this.offered === scans.length) return;
    this.offered = scans.length;
    for (const element of this.by.querySelectorAll(".factor")) element.remove();
    for (const job of scans) {
      const { factors } = await get(`/api/jobs/${job.number}/result`);
      for (const factor of factors ?? []) {
        const entry = option(`factor ${job.number} ${factor.number}`, `scan ${job.number}: ${factor.title}${factor.suspect ? ", a suspect" : ""}`);
        entry.className = "factor";
        this.by.append(entry);
      }
    }
  }

  async step(by) {
    const next = await this.app.look.beside(this.slot ?? 0, by);
    if (next) this.app.open(next.position, next.slot);
  }

  async toCoco() {
    try {
      const content = await get("/api/coco");
      const url = URL.createObjectURL(new Blob([JSON.stringify(content)], { type: "application/json" }));
      const link = h("a", { href: url, download: "marks.coco.json" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 1000);
    } catch (err) { this.app.fail(err); }
  }

  async fromCoco(input) {
    try {
      const answer = await post("/api/coco", { coco: JSON.parse(await input.files[0].text()), meaning: this.meaning });
      this.app.say(`marks of ${answer.marked} pictures were read${answer.unknown ? `; ${answer.unknown} pictures are not in the run` : ""}`);
      await this.open(this.position, this.slot);
    } catch (err) { this.app.fail(err instanceof SyntaxError ? new Error("the file is no JSON") : err); }
    input.value = "";
  }

  key(event) {
    if (event.ctrlKey || event.metaKey) {
      if (event.key === "z" && !event.shiftKey) this.undo();
      else if (event.key === "y" || (event.key.toLowerCase() === "z" && event.shiftKey)) this.undo(true);
      else return;
      event.preventDefault();
      return;
    }
    const tool = TOOLS.find(([, , key]) => key.toLowerCase() === event.key.toLowerCase());
    if (tool && this.tools?.querySelector(`input[value=${tool[0]}]`)) { this.setTool(tool[0]); this.app.say(tool[1]); }
    else if (event.key === ",") this.step(-1);
    else if (event.key === ".") this.step(1);
    else if (event.key === "[" || event.key === "]") { this.sizeInput.value = this.size = Math.max(1, Math.min(60, this.size + (event.key === "]" ? 1 : -1))); this.app.say(`brush ${this.size}`); }
    else if (event.key === "+" || event.key === "=") this.zoomBy(1.25);
    else if (event.key === "-") this.zoomBy(0.8);
  }

  get visible() { return !this.root.hidden; }
}
