// The gallery. Only the cards near the screen exist; blocks of samples are asked for when they come near it.

import { get, post } from "./api.js";
import { fillCard } from "./cards.js";
import { field, h, option, say } from "./dom.js";

const BLOCK = 24; // samples of one request; fewer with several explainers, so that the first come soon
const MOST_BLOCKS = 60; // blocks of cards that are kept
const BUDGET = 4; // ms of a frame in which cards are filled; the others wait for the next one
const SMALLEST = 90; // pixels of a picture's side
const MOST_FILLED = 6; // cards in one frame; fewer while frames are late, since layout and drawing come on top
const LATE = 34; // ms between frames
const SETTLE = 50; // ms that the scrolling must rest before far blocks are asked for
const ORDERS = {
  position: "as in the data", wrong: "wrong ones first", score: "highest score first", "-score": "lowest score first",
  "-confidence": "least sure first", confidence: "surest first",
  gap: "largest gap first", region: "most relevance in the marks", "-region": "least relevance in the marks",
  disagreement: "explainers disagree most", name: "by name",
};

export class Look {
  constructor(root, app) {
    this.app = app;
    this.block = Math.max(6, Math.floor(BLOCK / app.state.explainers.length));
    this.blocks = new Map();
    this.waiting = new Map();
    this.cards = new Map(); // slot -> element
    this.total = 0;
    this.focused = 0;
    this.version = 0;
    this.empties = new Set(); // slots of cards that are to be filled
    this.most = MOST_FILLED;
    this.top = 0; // kept, since asking the scroller would make the browser lay out at once
    this.high = 0;
    this.build(root);
    new ResizeObserver(() => this.layout()).observe(this.scroller);
  }

  build(root) {
    const { state } = this.app;
    const choice = (name, label, values) => {
      const select = h("select", { name, onchange: () => this.changed() }, option("", "all"), ...values.map(([v, t]) => option(v, t)));
      return field(label, select);
    };
    const named = (items) => items.map(({ value, name }) => [value, name]);
    const controls = [
      choice("label", "Class", named(state.filters.label)),
      choice("predicted", "Predicted", named(state.filters.predicted)),
      state.filters.label.length ? choice("right", "Prediction", [["right", "right"], ["wrong", "wrong"]]) : null,
      state.filters.folder.length > 1 ? choice("folder", "Folder", state.filters.folder.map((f) => [f, f])) : null,
    ];
    this.grouped = new Set(); // jobs whose groups can be chosen
    this.cluster = h("select", { name: "cluster", onchange: () => this.changed() }, option("", "all"));
    this.clusterField = field("Cluster", this.cluster);
    this.factor = h("select", { name: "factor", onchange: () => this.changed() }, option("", "all"));
    this.factorField = field("Changes with factor", this.factor);
    this.order = h("select", { name: "order", onchange: () => this.changed() }, ...state.orders.map((o) => option(o, ORDERS[o])));
    this.after = h("select", { name: "after", onchange: () => this.showAfter() }, option("", "none"));
    this.change = h("select", { name: "change", onchange: () => this.changed() }, option("", "all"),
      option("changed", "changed"), option("mended", "wrong before, right now"), option("broken", "right before, wrong now"));
    this.changeField = field("Changed by it", this.change);
    this.afterField = field("Compare with", this.after);
    const name = h("input", { name: "name", type: "search", autocomplete: "off", oninput: () => this.changed(300) });
    const opacity = h("input", { type: "range", min: 0, max: 100, value: 65, oninput: (e) => this.setOpacity(e.target.value) });
    const scale = h("select", { name: "scale", onchange: () => this.changed() }, option("", "each map its own"), option("one", "one for all maps"));
    this.form = h("form", { class: "controls", onsubmit: (e) => e.preventDefault() },
      ...controls, this.clusterField, this.factorField, field("Name", name), field("Order", this.order), this.afterField, this.changeField,
      state.kind === "image" && state.inputs ? field("Map over picture", opacity) : null,
      state.explainers.length > 1 || state.kind === "image" ? field("Scale", scale) : null);
    this.count = h("p", { class: "count", "aria-live": "polite" });
    this.legend = h("p", { class: "legend" }, h("span", { class: "key for" }), " speaks for the class, ", h("span", { class: "key against" }), " against it");
    this.scroller = h("div", { class: "scroller", role: "list", "aria-label": "Samples", tabindex: 0, onscroll: () => this.scrolled(), onkeydown: (e) => this.key(e) });
    this.spacer = h("div", { class: "spacer" });
    this.scroller.append(this.spacer);
    const small = matchMedia("(max-width: 50rem)");
    this.filters = h("details", { class: "filters", open: !small.matches }, h("summary", {}, "Filters and order"), this.form);
    root.append(this.filters, h("div", { class: "line" }, this.count, this.legend), this.scroller);
    this.setOpacity(65);
    this.showFields();
  }

  setOpacity(value) {
    document.documentElement.style.setProperty("--opacity", value / 100);
  }

  showFields() {
    this.afterField.hidden = this.after.options.length < 2;
    this.changeField.hidden = !this.after.value;
    this.clusterField.hidden = this.cluster.options.length < 2;
    this.factorField.hidden = this.factor.options.length < 2;
  }

  setJobs(jobs) {
    const shown = this.after.value;
    const done = jobs.filter((job) => job.after);
    if (done.length + 1 !== this.after.options.length) {
      this.after.replaceChildren(option("", "none"), ...done.map((job) => option(job.number, `job ${job.number}, mended`)));
      this.after.value = shown;
    }
    this.showFields();
    for (const job of jobs) if (job.result && ["shortcuts", "scan"].includes(job.verb)) this.addGroups(job).catch((err) => this.app.fail(err));
  }

  // The clusters of a job, or its factors with the samples whose prediction changes, as filters.
  async addGroups(job) {
    if (this.grouped.has(job.number)) return;
    this.grouped.add(job.number);
    const { groups } = await get(`/api/jobs/${job.number}/groups`);
    const shown = groups.filter(({ samples }) => samples);
    if (!shown.length) return;
    (job.verb === "scan" ? this.factor : this.cluster).append(h("optgroup", { label: `job ${job.number}` },
      ...shown.map(({ group, title, samples }) => option(group, `${title} (${samples.toLocaleString("en")})`))));
    this.showFields();
  }

  // Show the samples of a job's first group of its kind.
  async showGroup(job) {
    await this.addGroups(job);
    const [select, other] = job.verb === "scan" ? [this.factor, this.cluster] : [this.cluster, this.factor];
    other.value = "";
    const first = [...select.options].find((one) => one.value.startsWith(`${job.number}-`));
    if (first) select.value = first.value;
    await this.changed();
  }

  async showAfter(number, change) {
    if (number !== undefined) this.after.value = number;
    if (this.after.value) await get(`/api/jobs/${this.after.value}/after`);
    else this.change.value = "";
    if (change !== undefined) this.change.value = change;
    this.showFields();
    this.changed();
  }

  query() {
    const values = Object.fromEntries(new FormData(this.form));
    return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ""));
  }

  async changed(wait = 0) {
    clearTimeout(this.timer);
    if (wait) { this.timer = setTimeout(() => this.changed(), wait); return; }
    const { order } = this.query();
    this.count.textContent = "samples are being read…";
    this.seenEdits = this.app.edits;
    if (["region", "-region", "disagreement"].includes(order)) await this.measured(order.replace("-", ""));
    this.version += 1;
    this.blocks.clear();
    this.waiting.clear();
    this.focused = 0;
    this.scrollTo(0);
    for (const element of this.cards.values()) element.remove();
    this.cards.clear();
    this.empties.clear();
    await this.load(0);
    this.layout();
  }

  async measured(name) {
    await post("/api/measure", { name });
    for (;;) {
      const { measure } = await get("/api/state");
      if (!measure || !measure.running) {
        if (measure?.error) this.app.fail(new Error(measure.error));
        if (!measure || measure.name === name) return;
        await post("/api/measure", { name }); // another one was still running
        continue;
      }
      say(`measuring ${measure.done} of ${measure.total} samples`);
      await new Promise((done) => setTimeout(done, 400));
    }
  }

  // What the cards look like: how many columns, how high.
  layout() {
    const box = getComputedStyle(this.scroller);
    const width = this.scroller.clientWidth - parseFloat(box.paddingLeft) - parseFloat(box.paddingRight) + 10;
    if (width <= 0) return;
    const { kind, inputs, explainers } = this.app.state;
    const tiles = kind === "image" ? explainers.length + (inputs ? 1 : 0) + (this.after.value ? 1 : 0) : 1;
    const wanted = kind === "image" ? Math.max(230, tiles * 118) : 330;
    this.columns = Math.max(1, Math.floor(width / wanted));
    this.cardWidth = Math.floor(width / this.columns);
    const inside = this.cardWidth - 32;
    const across = Math.min(tiles, Math.max(2, Math.floor((inside + 6) / (SMALLEST + 6)))); // on a phone in several rows
    const tile = Math.min(230, (inside - 6 * (across - 1)) / across);
    const rowsOfTiles = Math.ceil(tiles / across);
    this.tile = tile;
    const maps = explainers.length + (this.after.value ? 1 : 0);
    const body = { image: rowsOfTiles * (tile + 20) + 4 * (rowsOfTiles - 1), text: 118 * maps, series: 96 * maps, tabular: 146 * maps }[kind];
    this.cardHeight = Math.round(body + 74 + (this.after.value ? 20 : 0));
    this.high = this.scroller.clientHeight;
    this.top = this.scroller.scrollTop;
    for (const [name, pixels] of [["--tile", tile], ["--card-width", this.cardWidth - 10], ["--card-height", this.cardHeight - 10]]) {
      this.scroller.style.setProperty(name, `${pixels}px`);
    }
    const rows = Math.ceil(this.total / this.columns);
    this.spacer.style.height = `${rows * this.cardHeight}px`;
    this.draw(true);
  }

  scrollTo(top) {
    this.scroller.scrollTop = top;
    this.top = top;
  }

  scrolled() {
    this.top = this.scroller.scrollTop;
    if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.draw(); });
    clearTimeout(this.settled);
    this.settled = setTimeout(() => this.want(), SETTLE);
  }

  range() {
    const first = Math.floor(this.top / this.cardHeight) - 1;
    const last = Math.ceil((this.top + this.high) / this.cardHeight) + 1;
    return [Math.max(0, first * this.columns), Math.min(this.total, last * this.columns)];
  }

  draw(moved = false) {
    if (!this.columns) return;
    const [first, last] = this.range();
    const free = [];
    for (const [slot, element] of this.cards) {
      if (slot < first || slot >= last) { this.cards.delete(slot); free.push(element); }
    }
    for (let slot = first; slot < last; slot += 1) {
      let element = this.cards.get(slot);
      if (!element) {
        element = free.pop() || this.empty();
        this.cards.set(slot, element);
        this.place(element, slot);
        this.clear(element);
        this.empties.add(slot);
      } else if (moved) this.place(element, slot);
    }
    for (const element of free) element.remove();
    this.fill();
    if (!this.top) this.want();
  }

  // Fill some cards in this frame, the others in the next ones.
  fill(now = performance.now()) {
    if (this.filling || !this.empties.size) return;
    const begun = performance.now();
    let count = 0;
    for (const slot of this.empties) {
      const element = this.cards.get(slot);
      if (element && !this.card(slot)) continue; // when its block comes
      if (count >= this.most || performance.now() - begun > BUDGET) {
        this.filling = requestAnimationFrame((next) => {
          this.filling = 0;
          this.most = next - now > LATE ? Math.max(1, this.most >> 1) : Math.min(MOST_FILLED, this.most + 1);
          this.fill(next);
        });
        return;
      }
      this.empties.delete(slot);
      if (element) { this.show(element, slot); count += 1; }
    }
  }

  empty() {
    const element = h("div", { class: "card", role: "listitem", tabindex: -1, onclick: () => this.open(Number(element.dataset.slot)) });
    this.spacer.append(element);
    return element;
  }

  place(element, slot) {
    element.dataset.slot = slot;
    element.style.transform = `translate(${(slot % this.columns) * this.cardWidth}px, ${Math.floor(slot / this.columns) * this.cardHeight}px)`;
    element.tabIndex = slot === this.focused ? 0 : -1;
    element.setAttribute("aria-posinset", slot + 1);
    element.setAttribute("aria-setsize", this.total);
  }

  clear(element) {
    if (element.classList.contains("waiting")) return;
    element.classList.add("waiting");
    element.setAttribute("aria-label", "is being read");
  }

  show(element, slot) {
    element.classList.remove("waiting");
    fillCard(element, this.card(slot));
  }

  card(slot) {
    return this.blocks.get(Math.floor(slot / this.block))?.[slot % this.block];
  }

  // Ask for the blocks on the screen.
  want() {
    if (!this.columns) return;
    const [first, last] = this.range();
    for (let block = Math.floor(first / this.block); block * this.block < last; block += 1) {
      if (!this.blocks.has(block) && !this.waiting.has(block)) this.load(block).catch((err) => this.app.fail(err));
    }
  }

  async load(block) {
    const { version } = this;
    this.waiting.set(block, true);
    try {
      const side = Math.min(512, Math.round((this.tile || 160) * Math.min(2, devicePixelRatio || 1)));
      const answer = await get("/api/samples", { ...this.query(), start: block * this.block, count: this.block, side });
      if (version !== this.version) return;
      this.blocks.set(block, answer.cards);
      if (this.blocks.size > MOST_BLOCKS) this.blocks.delete(this.blocks.keys().next().value);
      if (answer.total !== this.total) { this.total = answer.total; this.layout(); }
      this.told();
      this.fill();
    } finally {
      if (version === this.version) this.waiting.delete(block);
    }
  }

  told() {
    const { indexed, samples } = this.app.state;
    const more = indexed < 1 ? ` so far (${Math.round(100 * indexed)} % indexed)` : "";
    this.count.textContent = `${this.total.toLocaleString("en")} of ${samples.toLocaleString("en")} samples${more}`;
  }

  // More samples were indexed in the meantime.
  async grown() {
    const answer = await get("/api/samples", { ...this.query(), start: 0, count: 0 });
    if (answer.total !== this.total) { this.total = answer.total; this.layout(); this.want(); }
    this.told();
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.high / this.cardHeight)) * this.columns;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns, PageDown: page, PageUp: -page, Home: -this.total, End: this.total };
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.open(this.focused); return; }
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.focus(Math.max(0, Math.min(this.total - 1, this.focused + steps[event.key])));
  }

  focus(slot) {
    this.focused = slot;
    const top = Math.floor(slot / this.columns) * this.cardHeight;
    if (top < this.top) this.scrollTo(top);
    else if (top + this.cardHeight > this.top + this.high) this.scrollTo(top + this.cardHeight - this.high);
    this.draw(true);
    this.want();
    this.cards.get(slot)?.focus({ preventScroll: true });
  }

  open(slot) {
    const card = this.card(slot);
    if (!card) return;
    this.focused = slot;
    this.app.open(card.position, slot);
  }

  // The sample beside another one in this order, with these filters.
  async beside(slot, step) {
    const next = slot + step;
    if (next < 0 || next >= this.total) return null;
    if (!this.card(next)) await this.load(Math.floor(next / this.block));
    const card = this.card(next);
    if (card) this.focused = next;
    return card ? { position: card.position, slot: next } : null;
  }

  entered() {
    // An order by the relevance in the marks is another one now.
    if (this.query().order?.endsWith("region") && this.seenEdits !== this.app.edits) this.changed().catch((err) => this.app.fail(err));
    this.layout();
    this.want();
  }
}
