// The view of all sessions: overview, filters and the grid.

import { byId, el, fill, meter, phaseBadge, setText } from "./dom.js";
import { ago, count, duration, elapsed, money, now, plural } from "./format.js";
import { Grid } from "./grid.js";
import { PHASES } from "./model.js";

const LONG_WAIT = 60;
const SELECTS = { class: "All classes", agent: "All agents", environment: "All environments" };

export const sessionLink = (name) => `#/sessions/${encodeURIComponent(name)}`;

const COLUMNS = [
  { key: "phase", title: "Phase", cell: (row, td) => fill(td, phaseBadge(row.phase)) },
  {
    key: "session",
    title: "Session",
    cell: (row, td) => {
      const link = td.firstChild ?? td.appendChild(el("a", { tabindex: -1 }));
      link.setAttribute("href", sessionLink(row.name));
      setText(link, row.session);
      td.title = row.session;
    },
  },
  {
    key: "reason",
    title: "Reason",
    cell: (row, td) => {
      fill(td, row.reason, row.message && el("span", { class: "message" }, row.message));
      td.title = row.message;
    },
  },
  { key: "class", title: "Class", cell: (row, td) => setText(td, row.class || "–") },
  {
    key: "agent",
    title: "Agent",
    cell: (row, td) => {
      setText(td, row.agent || "–");
      td.title = row.agent;
    },
  },
  {
    key: "wait",
    title: "Wait",
    numeric: true,
    cell: (row, td) => {
      setText(td, elapsed(row.waiting));
      td.classList.toggle("long", row.waiting !== null && now() - row.waiting >= LONG_WAIT);
    },
  },
  { key: "turns", title: "Turns", numeric: true, cell: (row, td) => setText(td, count(row.turns)) },
  { key: "cost", title: "Cost", numeric: true, cell: (row, td) => setText(td, money(row.cost, row.currency)) },
  { key: "active", title: "Last active", numeric: true, cell: (row, td) => setText(td, ago(row.active)) },
];
const LARGEST_FIRST = new Set(["wait", "turns", "cost", "active"]);

export class SessionsView {
  constructor(model, announce) {
    this.model = model;
    this.announce = announce;
    this.grid = new Grid(byId("scroll"), "Sessions", COLUMNS, (key) => this.sortBy(key));
    this.buttons = new Map();
    byId("search").addEventListener("input", (event) => this.set({ text: event.target.value }));
    for (const key of Object.keys(SELECTS)) {
      byId(`filter-${key}`).addEventListener("change", (event) => this.set({ [key]: event.target.value }));
    }
    byId("clear").addEventListener("click", () => {
      this.set({ phase: "", text: "", class: "", agent: "", environment: "" });
      byId("search").focus();
    });
    byId("phases").addEventListener("click", (event) => {
      const phase = event.target.closest("button")?.dataset.phase;
      if (phase !== undefined) this.set({ phase: phase === this.model.filter.phase ? "" : phase });
    });
    this.loading();
  }

  loading() {
    this.grid.update([], el("div", { class: "loading" }, "Loading sessions…"));
  }

  set(change) {
    Object.assign(this.model.filter, change);
    this.grid.toTop();
    this.update();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.announce(byId("count").textContent), 700);
  }

  sortBy(key) {
    const { column, descending } = this.model.sort;
    this.model.sort = { column: key, descending: column === key ? !descending : LARGEST_FIRST.has(key) };
    this.grid.toTop();
    this.update();
  }

  update() {
    this.found = this.model.overview();
    const rows = this.model.chosen();
    const all = this.model.tables.sessions.size;
    this.showTiles();
    this.showPhases(all);
    for (const key of Object.keys(SELECTS)) this.showChoices(key);
    const { filter } = this.model;
    if (byId("search").value !== filter.text) byId("search").value = filter.text;
    byId("clear").hidden = !this.model.filtered;
    setText(byId("count"), rows.length === all ? plural(all, "session") : `${count(rows.length)} of ${plural(all, "session")}`);
    this.grid.showSort(this.model.sort);
    this.grid.update(rows, this.notice(all, rows.length));
  }

  notice(all, shown) {
    if (all === 0) {
      return el("div", { class: "empty" }, el("strong", {}, "No sessions yet"),
        el("span", {}, "A ManagedSession appears here when a session of the environment gets its first message."));
    }
    if (shown === 0) {
      return el("div", { class: "empty" }, el("strong", {}, "No session matches"), el("span", {}, "Change the search, or clear the filters."));
    }
    return null;
  }

  showTiles() {
    const { slots, waiting, oldest, users, cost, phases } = this.found;
    const allowed = this.model.fixed.slots;
    const failed = phases.get("Failed");
    const tile = (title, value, note) => el("div", { class: "tile" }, el("dt", {}, title), el("dd", { class: "value" }, value), el("dd", { class: "note" }, note));
    const slotsOf = allowed ? [count(slots), el("small", {}, ` of ${count(allowed)}`)] : count(slots);
    fill(
      byId("tiles"),
      tile("Slots in use", slotsOf, allowed ? meter(slots, allowed) : "sandboxes that run"),
      tile("Waiting", count(waiting), oldest
        ? ["oldest ", el("a", { href: sessionLink(oldest.name), title: oldest.session }, duration(Math.floor(now() - oldest.waiting)).replace(".0", ""))]
        : "no message waits"),
      tile("Waiting for a user", count(users), users ? "a call needs an answer" : "no open question"),
      tile("Failed", count(failed), failed ? "see the reason of each" : "none"),
      tile("Cost", money(cost), "of the sessions that exist"),
    );
  }

  showPhases(all) {
    const entries = [["", all], ...[...this.found.phases].sort((a, b) => order(a[0]) - order(b[0]))];
    for (const [phase, number] of entries) {
      let button = this.buttons.get(phase);
      if (!button) {
        const label = el("span", { class: "number" });
        const made = el("button", { type: "button", "data-phase": phase }, phase ? phaseBadge(phase) : "All", label);
        button = { made, label };
        this.buttons.set(phase, button);
        byId("phases").append(made);
      }
      setText(button.label, count(number));
      button.made.setAttribute("aria-pressed", String(this.model.filter.phase === phase));
      button.made.hidden = Boolean(phase) && number === 0 && this.model.filter.phase !== phase;
    }
  }

  showChoices(key) {
    const select = byId(`filter-${key}`);
    const values = [...this.found.choices[key]].sort();
    const chosen = this.model.filter[key];
    if (chosen && !values.includes(chosen)) values.push(chosen);
    const wanted = values.join("\n");
    if (select.dataset.values !== wanted) {
      select.dataset.values = wanted;
      fill(select, el("option", { value: "" }, SELECTS[key]), values.map((value) => el("option", { value }, value)));
    }
    select.value = chosen;
    select.parentElement.hidden = values.length < 2 && !chosen;
  }

  tick() {
    if (!this.found) return;
    this.showTilesIfIdle();
    this.grid.tick();
  }

  // A link that has the focus stays in the document.
  showTilesIfIdle() {
    if (!byId("tiles").contains(document.activeElement)) this.showTiles();
  }
}

const order = (phase) => {
  const index = PHASES.indexOf(phase);
  return index < 0 ? PHASES.length : index;
};
