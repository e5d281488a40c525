// What a job found: the verdict in words, the tables, and the samples before and after.

import { get } from "./api.js";
import { h, percent } from "./dom.js";

export class ProveView {
  constructor(root, app) {
    this.app = app;
    this.root = root;
    this.number = null;
  }

  async show(number, jobs) {
    const finished = jobs.filter((job) => job.result);
    const job = finished.find((one) => one.number === number) ?? finished[0];
    if (!job) {
      this.number = null;
      this.root.replaceChildren(h("p", { class: "hint" }, "No result yet: start a job under Mend."));
      return;
    }
    const stamp = `${job.number} ${job.after} ${job.report} ${finished.length}`;
    if (stamp === this.stamp) return;
    if (this.number !== job.number) this.root.replaceChildren(h("p", { class: "hint" }, "The result is being read…"));
    this.stamp = stamp;
    this.number = job.number;
    const result = await get(`/api/jobs/${job.number}/result`);
    const others = h("nav", { class: "others", "aria-label": "Results" }, ...finished.map((one) =>
      h("a", { href: `#prove/${one.number}`, "aria-current": one === job ? "page" : null }, `${one.number}. ${one.verb}`)));
    const samples = job.after ? await this.samples(job) : job.verb === "mend" ? h("p", { class: "hint" }, "The samples are being explained again; before and after come here.") : null;
    const groups = ["shortcuts", "scan"].includes(job.verb) ? this.groups(job) : null;
    this.root.replaceChildren(others,
      h("p", { class: `verdict ${result.relies === null ? "open" : result.relies ? "relies" : "fine"}`, role: "status" }, result.verdict.replace(/(\d) %/g, "$1\u00a0%")),
      samples ?? groups ?? "",
      ...result.tables.map((table) => this.table(table)));
  }

  async samples(job) {
    const counts = await get(`/api/jobs/${job.number}/after`);
    const look = (change) => async () => { await this.app.look.showAfter(job.number, change); location.hash = "#look"; };
    const button = (count, text, change) => h("button", { type: "button", onclick: look(change), disabled: !count }, h("b", {}, count), ` ${text}`);
    return h("div", { class: "buttons counts" },
      h("button", { type: "button", class: "primary", onclick: look("") }, "All samples, before and after"),
      button(counts.changed, "changed", "changed"), button(counts.mended, "wrong before, right now", "mended"), button(counts.broken, "right before, wrong now", "broken"),
      job.report ? h("a", { class: "button", href: `/api/jobs/${job.number}/report.html`, download: "report.html" }, "Save the report page") : null);
  }

  groups(job) {
    return h("button", { type: "button", class: "primary", onclick: async () => {
      try { await this.app.look.showGroup(job); location.hash = "#look"; } catch (err) { this.app.fail(err); }
    } }, job.verb === "scan" ? "See the samples that change" : "See the samples of a cluster");
  }

  table({ title, columns, rows, chosen }) {
    const share = (column, value) => typeof value !== "number" ? value ?? "" : ["epochs", "seconds", "cluster", "samples"].includes(column) ? value : percent(value);
    return h("div", { class: "table" }, h("h3", {}, title), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, h("table", {},
      h("thead", {}, h("tr", {}, ...columns.map((column) => h("th", { scope: "col" }, column)))),
      h("tbody", {}, ...rows.map((row, i) => h("tr", { class: i === chosen ? "chosen" : "" }, ...columns.map((column) =>
        h("td", { class: typeof row[column] === "number" ? "number" : "" }, String(share(column, row[column])))))))),
    ), chosen !== null && chosen !== undefined ? h("p", { class: "hint" }, "The bold row was chosen.") : null);
  }
}
