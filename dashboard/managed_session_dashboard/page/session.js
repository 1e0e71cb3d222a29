// The page of one session: what it waits for, its turns as bars, its Events and facts.

import { byId, el, fill, phaseBadge } from "./dom.js";
import { ago, count, duration, elapsed, iso, money, now, parse, timeOfDay } from "./format.js";

const GOOD = new Set(["Idle", "Running", "AwaitingMessage"]);

export class SessionPage {
  constructor(model, read) {
    this.model = model;
    this.read = read;
    this.name = "";
    this.shown = null;
    this.title = el("h1", { id: "title-session", tabindex: -1 });
    this.body = el("div", { class: "column" });
    fill(byId("view-session"), el("p", {}, el("a", { href: "#/" }, "← All sessions")), this.body);
  }

  open(name) {
    this.name = name;
    this.shown = null;
    this.title.textContent = this.model.tables.sessions.get(name)?.session ?? name;
    fill(this.body, el("div", { class: "title" }, this.title), el("div", { class: "loading" }, "Loading…"));
    this.refresh();
  }

  async refresh() {
    const name = this.name;
    if (!name) return;
    let found;
    try {
      found = await this.read(`api/sessions/${encodeURIComponent(name)}`);
    } catch {
      if (this.shown === null && name === this.name) {
        fill(this.body, el("div", { class: "title" }, this.title), el("div", { class: "empty" }, el("strong", {}, "The session could not be loaded"), "The page tries again when the connection is back."));
      }
      return;
    }
    if (name !== this.name) return;
    this.shown = found;
    if (found === null) {
      fill(this.body, el("div", { class: "title" }, this.title),
        el("div", { class: "empty" }, el("strong", {}, "This session does not exist"), "Its ManagedSession was deleted, or there never was one of this name."));
      return;
    }
    this.draw();
  }

  tick() {
    // Times pass only while a turn runs or a message waits.
    const turns = this.shown?.turns ?? [];
    if (turns.length && turns.at(-1).finished === null && !this.body.contains(document.activeElement)) this.draw();
  }

  draw() {
    const { session, turns, events } = this.shown;
    this.title.textContent = session.session;
    const focused = document.activeElement === this.title;
    fill(
      this.body,
      el("div", { class: "title" }, this.title, phaseBadge(session.phase), el("span", { class: "muted id" }, session.name)),
      el("div", { class: "detail" },
        el("div", { class: "column" }, this.now(session), this.turns(turns, session), this.events(events)),
        el("div", { class: "column" }, this.facts(session), this.cost(session.cost), this.conditions(session.conditions))),
    );
    if (focused) this.title.focus({ preventScroll: true });
  }

  now(session) {
    const ready = session.conditions.find((each) => each.type === "Ready");
    const row = this.model.tables.sessions.get(session.name);
    const kind = session.phase === "Failed" ? "panel bad" : row?.waiting != null ? "panel waits" : "panel";
    if (!ready) return panel("Now", kind, el("p", {}, "The operator has not looked at this session yet."));
    return panel(
      ready.reason, kind,
      ready.message && el("p", {}, ready.message),
      ready.meaning && el("p", { class: "muted" }, prose(ready.meaning)),
      ready.remedy && !GOOD.has(ready.reason) && el("p", {}, el("strong", {}, "What to do: "), prose(ready.remedy)),
      row?.waiting != null && el("p", {}, `Waiting for ${elapsed(row.waiting)}.`),
    );
  }

  turns(turns, session) {
    const legend = el("p", { class: "legend", "aria-hidden": "true" },
      [["s-wait", "Slot and sandbox"], ["s-start", "Worker starts"], ["s-run", "Runs"]].map(([name, text]) => el("span", {}, el("i", { class: name }), text)));
    const parts = turns.map(partsOf).reverse();
    if (!parts.length) return panel("Turns", "panel", el("p", { class: "muted" }, session.turns ? "Their Kubernetes Events are gone; the API server keeps them for an hour." : "None yet."));
    const longest = Math.max(...parts.map((each) => each.total), 0.001);
    const table = el("table", { "aria-label": "Turns" },
      el("thead", {}, el("tr", {}, ["Began", "Sandbox", "Start", "Run"].map((title) => el("th", { scope: "col" }, title)), el("th", { scope: "col" }, "Timeline"), el("th", { scope: "col" }, "Outcome"))),
      el("tbody", {}, parts.map((each) => turnRow(each, longest))));
    return panel(`Turns (${count(parts.length)} of ${count(Math.max(session.turns, parts.length))})`, "panel", legend, el("div", { class: "turns", role: "region", "aria-label": "Turns as a table", tabindex: 0 }, table));
  }

  events(events) {
    const items = [...events].reverse().map((each) =>
      el("li", { class: each.warning ? "warning" : null },
        el("time", { datetime: iso(each.at), title: iso(each.at) }, timeOfDay(each.at)),
        el("span", { class: "reason" }, each.warning && el("span", { class: "unseen" }, "Warning: "), each.reason),
        el("span", { class: "text" }, each.message)));
    return panel("Events", "panel", items.length ? el("ol", { class: "events" }, items) : el("p", { class: "muted" }, "None in the last hour."));
  }

  facts(session) {
    const sandbox = session.sandbox;
    const entries = [
      ["Class", session.class && el("a", { href: `#/?class=${encodeURIComponent(session.class)}` }, session.class)],
      ["Agent", session.agent && el("a", { class: "id", href: `#/?agent=${encodeURIComponent(session.agent)}` }, session.agent)],
      ["Environment", session.environment && el("a", { class: "id", href: `#/?environment=${encodeURIComponent(session.environment)}` }, session.environment)],
      ["Sandbox", sandbox.id && el("span", { class: "id" }, sandbox.id)],
      ["State of the sandbox", sandbox.state],
      ["Shared by", sandbox.sharedBy],
      ["Template", session.effective.template],
      ["Turns", count(session.turns)],
      ["Last active", session.lastActive && ago(parse(session.lastActive))],
      ["Created", session.created && timeOfDay(parse(session.created))],
      ["Ended", session.ended && timeOfDay(parse(session.ended))],
      ["Exit reason", session.work.exitReason],
      ["Trace", this.trace(session.trace)],
    ];
    return panel("Facts", "panel", facts(entries));
  }

  trace(id) {
    if (!id) return null;
    const template = this.model.fixed.traceURL;
    if (!template) return el("span", { class: "id" }, id);
    return el("a", { class: "id", href: template.replaceAll("{trace_id}", encodeURIComponent(id)), rel: "noopener noreferrer", target: "_blank" }, id.slice(0, 12), "…", el("span", { class: "unseen" }, " (opens a new tab)"));
  }

  cost(cost) {
    const amount = (value) => value !== undefined && money(value, cost.currency);
    const entries = [
      ["Total", money(cost.total, cost.currency)],
      ["Anthropic, list price", amount(cost.list)],
      ["Sandbox, estimate", amount(cost.sandbox)],
      ["Budget", amount(cost.budget)],
      ["Active", cost.activeSeconds !== undefined && duration(cost.activeSeconds)],
      ["Sandbox ran", cost.sandboxSeconds !== undefined && duration(cost.sandboxSeconds)],
    ];
    return panel("Cost", "panel", facts(entries));
  }

  conditions(conditions) {
    return panel("Conditions", "panel", el("ul", { class: "conditions" }, conditions.map((each) =>
      el("li", {}, el("span", {}, el("strong", {}, each.type), ` ${each.status} · ${each.reason}`),
        each.message && each.type !== "Ready" && el("span", { class: "muted" }, each.message)))));
  }
}

const facts = (entries) =>
  el("dl", { class: "facts" }, entries.filter(([, value]) => value).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));

const panel = (title, kind, ...children) => el("section", { class: kind, "aria-label": title }, el("h2", {}, title), ...children);

function partsOf(turn) {
  const end = turn.finished ?? now();
  const started = turn.started ?? (turn.finished === null ? null : turn.finished);
  const sandbox = turn.sandbox ?? started;
  const begin = turn.claimed ?? sandbox ?? started ?? end;
  const wait = Math.max(0, (sandbox ?? end) - begin);
  const start = sandbox === null ? 0 : Math.max(0, (started ?? end) - sandbox);
  const run = started === null ? 0 : Math.max(0, end - started);
  return { turn, begin, wait, start, run, total: wait + start + run };
}

function turnRow({ turn, begin, wait, start, run, total }, longest) {
  const going = turn.finished === null;
  const segment = (name, seconds) => {
    if (!(seconds > 0)) return null;
    const made = el("span", { class: name });
    made.style.flexGrow = String(seconds);
    return made;
  };
  const bar = el("div", { class: "bar", "aria-hidden": "true" }, segment("s-wait", wait), segment("s-start", start),
    segment(`s-run${turn.warning ? " bad" : ""}${going ? " going" : ""}`, run));
  bar.style.width = `${(100 * total) / longest}%`;
  const shown = (seconds, known) => el("td", {}, known ? duration(seconds) : "–");
  return el("tr", {},
    el("td", {}, el("time", { datetime: iso(begin), title: iso(begin) }, timeOfDay(begin))),
    shown(wait, turn.claimed !== null), shown(start, turn.started !== null), shown(run, turn.started !== null),
    el("td", { class: "bar-cell" }, bar),
    el("td", { title: turn.summary }, going ? (turn.started === null ? "not started" : "in progress") : short(turn.summary)));
}

// Text of our own documentation, in which `words` are code.
const prose = (text) => text.split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part));

const short = (text) => (text.length > 60 ? `${text.slice(0, 57)}…` : text);
