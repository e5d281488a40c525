// The page: which step is shown, what all steps share, and the keys.

import { Away, get, onAway } from "./api.js";
import { colourFilter, h, say } from "./dom.js";
import { Look } from "./look.js";
import { MarkView } from "./mark.js";
import { MendView } from "./mend.js";
import { ProveView } from "./prove.js";

const VIEWS = ["look", "mark", "mend", "prove"];
const POLL = 1000; // ms between looks at jobs

class App {
  constructor() {
    this.jobs = [];
    this.say = say;
    this.banner = document.getElementById("banner");
  }

  async begin() {
    history.replaceState(null, "", `/${location.hash}`); // the secret leaves the address
    this.state = await get("/api/state");
    colourFilter(this.state.colours);
    const { run, model, samples, explainers } = this.state;
    document.getElementById("run").textContent = `${run} · ${model} · ${samples.toLocaleString("en")} samples · ${explainers.join(", ")}`;
    document.title = `${run} · xaikit studio`;
    this.look = new Look(document.getElementById("look"), this);
    this.mark = new MarkView(document.getElementById("mark"), this);
    this.mend = new MendView(document.getElementById("mend"), this);
    this.prove = new ProveView(document.getElementById("prove"), this);
    onAway((away) => { if (away) this.fail(new Away("the studio does not answer; the page goes on when it is back")); else this.healed(); });
    window.addEventListener("hashchange", () => this.route());
    document.addEventListener("keydown", (event) => this.key(event));
    const keys = document.getElementById("keys");
    document.getElementById("help").addEventListener("click", () => keys.showModal());
    this.banner.addEventListener("click", () => { this.banner.hidden = true; });
    await this.lookAtJobs();
    await this.look.changed();
    await this.route();
    document.body.dataset.ready = "yes";
    this.poll();
  }

  async poll() {
    for (;;) {
      const busy = this.jobs.some((job) => ["running", "stopping"].includes(job.state));
      const indexing = this.state.indexed < 1;
      await new Promise((done) => setTimeout(done, busy || indexing ? POLL : 4 * POLL));
      try {
        if (indexing) { this.state = await get("/api/state"); await this.look.grown(); }
        await this.lookAtJobs();
      } catch { /* the banner tells */ }
    }
  }

  async lookAtJobs() {
    const { jobs } = await get("/api/jobs");
    const done = jobs.filter((job) => job.result && !this.jobs.find((old) => old.number === job.number)?.result);
    if (this.jobs.length) done.forEach((job) => this.say(`job ${job.number}, ${job.verb}, has a result`));
    this.jobs = jobs;
    this.look.setJobs(jobs);
    this.mend.show(jobs);
    if (this.view === "prove") await this.prove.show(this.prove.number, jobs);
  }

  async route() {
    const [name, argument] = location.hash.slice(1).split("/");
    const view = VIEWS.includes(name) ? name : "look";
    this.view = view;
    for (const other of VIEWS) document.getElementById(other).hidden = other !== view;
    for (const link of document.querySelectorAll("header nav a")) {
      if (link.dataset.view === view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    document.body.dataset.view = view;
    try {
      if (view === "look") this.look.entered();
      if (view === "mark") {
        const position = /^\d+$/.test(argument ?? "") ? Number(argument) : this.mark.position ?? this.look.card(this.look.focused)?.position ?? 0;
        const slot = position === this.opened?.position ? this.opened.slot : this.mark.slot;
        if (position !== this.mark.position || !this.mark.card) await this.mark.open(position, slot ?? position);
        else this.mark.fit();
      }
      if (view === "mend") { this.state = await get("/api/state"); this.mend.show(this.jobs); }
      if (view === "prove") await this.prove.show(argument ?? this.prove.number, this.jobs);
      this.keepFocus();
    } catch (err) { this.fail(err); }
  }

  // What had the focus may be hidden now: a keyboard or a screen reader would begin at the top of the page again.
  keepFocus() {
    const focused = document.activeElement;
    const first = !document.body.dataset.ready;
    if (first || (focused && focused !== document.body && !focused.closest("[hidden]"))) return;
    const { look, mark } = this;
    const target = { look: look.cards.get(look.focused) ?? look.scroller, mark: mark.title }[this.view];
    (target ?? document.getElementById("main")).focus({ preventScroll: true });
  }

  open(position, slot) {
    this.opened = { position, slot };
    location.hash = `#mark/${position}`;
  }

  fail(err, waiting = 0) {
    const more = waiting ? ` (${waiting} edit${waiting > 1 ? "s" : ""} not saved yet)` : "";
    this.banner.textContent = `${err.message}${more}`;
    this.banner.hidden = false;
    this.banner.dataset.away = err instanceof Away ? "yes" : "";
  }

  healed() {
    if (this.banner.dataset.away) { this.banner.hidden = true; this.banner.dataset.away = ""; }
  }

  key(event) {
    const typing = event.target.closest("input:not([type=radio]):not([type=checkbox]):not([type=range]), select, textarea, dialog[open]");
    if (typing) return;
    if (event.key === "?") { document.getElementById("keys").showModal(); return; }
    if ("1234".includes(event.key) && !event.ctrlKey && !event.altKey && !event.metaKey) { location.hash = `#${VIEWS[Number(event.key) - 1]}`; return; }
    if (this.view === "mark") this.mark.key(event);
  }
}

const app = new App();
app.begin().catch((err) => {
  app.fail(err);
  document.getElementById("main").append(h("p", { class: "hint" }, err.message));
});
window.studio = app;
