// Layers: the marks as the page holds them, and the way of an edit to the disk. An edit that could not be sent is kept,
// in the browser's storage too, and sent again, with the same identifier, so that it counts once.

import { Away, get, post } from "./api.js";
import { fromRuns, toRuns } from "./shapes.js";

const AGAIN = 1000; // ms

const identifier = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");

export class Layers {
  constructor(app, changed) {
    this.app = app;
    this.changed = changed;
    this.queue = [];
    this.layers = new Map();
    this.kept = `xaikit-edits ${app.state.id}`; // of these marks: another run may come to the same address
    this.tab = identifier();
    this.sendKept();
    window.addEventListener("beforeunload", (event) => { if (this.queue.length) event.preventDefault(); });
  }

  // Answers that are still on their way belong to the sample before.
  forget() {
    this.epoch = (this.epoch ?? 0) + 1;
    this.layers.clear();
  }

  of(meaning, scope) {
    return this.layers.get(`${meaning} ${scope}`);
  }

  async load(position, size, scopes = ["all", "class", "sample"], cluster = undefined) {
    const { epoch } = this;
    const wanted = ["must-not-matter", "must-matter"].flatMap((meaning) => scopes.map((scope) => [meaning, scope]));
    await Promise.all(wanted.map(async ([meaning, scope]) => {
      if (scope === "class" && !this.app.state.filters.label.length && !this.app.state.filters.predicted.length) return;
      const key = { meaning, scope, position, cluster };
      let answer = { runs: [], edit: 0, undo: false, redo: false };
      try {
        answer = await get("/api/marks", key);
      } catch (err) { // a damaged file, or the mark of another sample of this name: the sample can be looked at
        if (err instanceof Away) throw err;
        this.app.fail(err);
      }
      if (epoch === this.epoch) this.layers.set(`${meaning} ${scope}`, this.layer(key, size, answer));
    }));
  }

  layer(key, size, answer) {
    const last = answer.runs.length ? answer.runs.at(-2) + answer.runs.at(-1) : 0;
    const layer = { key, flags: new Uint8Array(Math.max(size, last)), edit: answer.edit, undo: answer.undo, redo: answer.redo };
    fromRuns(layer.flags, answer.runs);
    return layer;
  }

  // Somebody else may have changed it.
  async refresh(layer) {
    if (!layer || this.queue.length) return;
    const answer = await get("/api/marks", layer.key);
    if (this.queue.length || answer.edit === layer.edit) return;
    this.take(layer, answer);
    this.app.say("somebody else changed this mark");
  }

  grow(layer, size) {
    if (layer.flags.length >= size) return;
    const flags = new Uint8Array(size);
    flags.set(layer.flags);
    layer.flags = flags;
  }

  // Mark (or unmark) what is set in `stroke`.
  change(layer, stroke, erase) {
    this.grow(layer, stroke.length);
    const changed = new Uint8Array(stroke.length);
    let any = false;
    for (let i = 0; i < stroke.length; i += 1) {
      if (stroke[i] && Boolean(layer.flags[i]) === erase) { changed[i] = 1; layer.flags[i] = erase ? 0 : 1; any = true; }
    }
    if (!any) return false;
    const runs = toRuns(changed);
    this.send(layer, { added: erase ? [] : runs, removed: erase ? runs : [], identifier: identifier() });
    return true;
  }

  undo(layer, redo = false) {
    this.send(layer, { ...(redo ? { redo: true } : { undo: true }), identifier: identifier() });
  }

  // Keep what is not on the disk yet, for the case that the browser ends before the server is back.
  keep() {
    try {
      const name = `${this.kept} ${this.tab}`;
      if (this.queue.length) localStorage.setItem(name, JSON.stringify(this.queue.map(({ content }) => content)));
      else localStorage.removeItem(name);
    } catch { /* no storage, or a full one: the page still holds them */ }
  }

  // Send what an earlier page could not. One that still lives sends it too, which counts once.
  sendKept() {
    try {
      for (const name of Object.keys(localStorage).filter((one) => one.startsWith(`${this.kept} `))) {
        for (const content of JSON.parse(localStorage.getItem(name))) {
          const { meaning, scope, position, cluster } = content;
          this.queue.push({ layer: this.layer({ meaning, scope, position, cluster }, 0, { runs: [], edit: 0 }), content });
        }
        localStorage.removeItem(name);
      }
    } catch { /* no storage */ }
    if (!this.queue.length) return;
    this.keep();
    this.flush();
  }

  send(layer, content) {
    this.app.edits = (this.app.edits ?? 0) + 1;
    this.queue.push({ layer, content: { ...layer.key, ...content } });
    this.keep();
    this.changed();
    if (!this.sending) this.flush();
  }

  async flush() {
    this.sending = true;
    while (this.queue.length) {
      const [item] = this.queue;
      item.content.base ??= item.layer.edit;
      try {
        const answer = await post("/api/marks", item.content);
        this.queue.shift();
        this.keep();
        this.take(item.layer, answer);
        if (answer.merged) this.app.say("somebody else changed this mark too; both changes are in it");
        this.app.healed();
      } catch (err) {
        this.app.fail(err, this.queue.length);
        if (err instanceof Away) { await new Promise((done) => setTimeout(done, AGAIN)); continue; }
        this.queue.shift();
        this.keep();
        try { this.take(item.layer, await get("/api/marks", item.layer.key)); } catch { /* the next look tells */ }
      }
    }
    this.sending = false;
    this.changed();
  }

  take(layer, answer) {
    const last = answer.runs.length ? answer.runs.at(-2) + answer.runs.at(-1) : 0;
    this.grow(layer, last);
    fromRuns(layer.flags, answer.runs);
    Object.assign(layer, { edit: answer.edit, undo: answer.undo, redo: answer.redo });
    for (const { content } of this.queue.filter((item) => item.layer === layer)) {
      for (const [runs, value] of [[content.added, 1], [content.removed, 0]]) {
        for (let i = 0; runs && i < runs.length; i += 2) layer.flags.fill(value, runs[i], runs[i] + runs[i + 1]);
      }
    }
    this.changed();
  }
}
