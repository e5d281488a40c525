// Jobs: what can be started, what runs, what came of it.

import { post } from "./api.js";
import { field, h } from "./dom.js";

const TEXTS = {
  mend: ["Mend the model", "Train a copy of the model so that what is marked does not matter any more. Then every sample is explained again."],
  scan: ["Scan for shortcuts", "Exchange corners, border, hue and other factors between samples, and count which ones the predictions follow."],
  shortcuts: ["Cluster the explanations", "Find groups of samples that are decided for the same reason: one of them may be a shortcut."],
  assess: ["Assess the model", "Say whether the model relies on what is marked. Nothing is trained."],
};
const STATES = { running: "runs", stopping: "stops", stopped: "stopped", done: "done", failed: "failed" };

export class MendView {
  constructor(root, app) {
    this.app = app;
    this.list = h("div", { class: "jobs", "aria-live": "off" });
    const { forms } = app.state;
    this.hint = h("p", { class: "hint" });
    const starts = h("div", { class: "starts" }, ...["mend", "scan", "shortcuts", "assess"].filter((verb) => forms[verb]).map((verb) => this.start(verb, forms[verb])));
    const more = app.state.jobs ? "" : h("p", { class: "hint" }, "To mend, scan and assess, open the studio with the model and its data: ", h("code", {}, "xaikit studio RUN --model mynet:make --weights w.pt --data photos/"));
    root.append(starts, more, this.hint, h("h2", {}, "Jobs"), this.list);
    this.elements = new Map();
  }

  start(verb, form) {
    const [title, text] = TEXTS[verb];
    const inputs = new Map(form.map((setting) => [setting, this.input(setting)]));
    const settings = () => Object.fromEntries([...inputs].map(([setting, input]) =>
      [setting.name, setting.kind === "switch" ? input.checked : ["whole", "share"].includes(setting.kind) ? Number(input.value) : input.value]));
    const button = h("button", { type: "submit", class: verb === "mend" ? "primary" : "" }, title);
    return h("form", {
      class: "start",
      onsubmit: async (event) => {
        event.preventDefault();
        button.disabled = true;
        try {
          await post("/api/jobs", { verb, settings: settings() });
          await this.app.lookAtJobs();
        } catch (err) { this.app.fail(err); }
        button.disabled = false;
      },
    }, h("p", {}, text), button, h("details", {}, h("summary", {}, "Settings"), ...[...inputs].map(([setting, input]) => field(setting.label, input, setting.hint))));
  }

  input(setting) {
    if (setting.kind === "switch") return h("input", { type: "checkbox", checked: setting.usual });
    if (setting.kind === "whole") return h("input", { type: "number", min: 0, max: setting.most, step: 1, value: setting.usual });
    if (setting.kind === "share") return h("input", { type: "number", min: 0, max: 1, step: "any", value: setting.usual });
    return h("input", { type: "text", value: setting.usual, autocomplete: "off" });
  }

  show(jobs) {
    const marked = Object.values(this.app.state.marked["must-not-matter"]).some(Boolean);
    this.hint.textContent = !this.app.state.jobs || marked ? "" : "Nothing is marked yet: Mend and Assess need to know what must not matter.";
    if (!jobs.length) { this.list.replaceChildren(h("p", { class: "hint" }, "No job yet.")); this.elements.clear(); return; }
    if (!this.elements.size) this.list.replaceChildren();
    const numbers = new Set(jobs.map((job) => job.number));
    for (const [number, element] of this.elements) if (!numbers.has(number)) { element.root.remove(); this.elements.delete(number); }
    [...jobs].reverse().forEach((job) => {
      let element = this.elements.get(job.number);
      if (!element) { element = this.card(job); this.elements.set(job.number, element); this.list.prepend(element.root); }
      this.fill(element, job);
    });
  }

  card(job) {
    const act = (path) => async () => { try { await post(`/api/jobs/${job.number}/${path}`); await this.app.lookAtJobs(); } catch (err) { this.app.fail(err); } };
    const element = {
      state: h("span", { class: "state" }),
      bar: h("progress", { max: 100, "aria-label": `progress of job ${job.number}` }),
      text: h("p", { class: "text" }),
      log: h("pre", { tabindex: 0, "aria-label": "log" }),
      stop: h("button", { type: "button", onclick: act("stop") }, "Stop"),
      goOn: h("button", { type: "button", onclick: act("go-on") }, "Go on"),
      see: h("a", { class: "button primary", href: `#prove/${job.number}` }, "See the result"),
    };
    const settings = Object.entries(job.settings).map(([name, value]) => `${name} ${value}`).join(", ");
    element.root = h("article", { class: "job", "aria-label": `job ${job.number}, ${job.verb}` },
      h("div", { class: "line" }, h("h3", {}, `${job.number}. ${job.verb}`), element.state),
      settings ? h("p", { class: "settings" }, settings) : null, element.bar, element.text,
      h("div", { class: "buttons" }, element.stop, element.goOn, element.see),
      h("details", {}, h("summary", {}, "Log"), element.log));
    return element;
  }

  fill(element, job) {
    const runs = job.state === "running" || job.state === "stopping";
    element.root.dataset.state = job.state;
    element.state.textContent = STATES[job.state];
    element.bar.hidden = !runs;
    if (job.progress) element.bar.value = job.progress.percent;
    else element.bar.removeAttribute("value");
    const step = job.steps > 1 ? `step ${job.step} of ${job.steps}: ${{ explain: "explain every sample again", report: "write the report" }[job.step_verb] ?? job.verb}` : job.verb;
    const left = job.progress && !job.progress.left.includes("?") ? `, ${job.progress.name || "this part"}: ${job.progress.percent} %, ${job.progress.left} left` : "";
    element.text.textContent = runs ? `${step}${left}` : job.state === "failed" ? job.log.at(-1) || "" : job.state === "stopped" ? "Go on continues where it was." : "";
    element.stop.hidden = !runs;
    element.stop.disabled = job.state === "stopping";
    element.goOn.hidden = !["stopped", "failed"].includes(job.state);
    element.see.hidden = !job.result;
    const log = job.log.join("\n");
    if (element.log.textContent !== log) element.log.textContent = log;
  }
}
