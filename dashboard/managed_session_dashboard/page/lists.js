// The views of all classes and all environments.

import { byId, el, fill, meter } from "./dom.js";
import { count, duration, elapsed, money, plural } from "./format.js";

const th = (title, numeric) => el("th", { scope: "col", class: numeric ? "number" : null }, title);
const td = (content, attributes = {}) => el("td", attributes, content);
const number = (content) => td(content, { class: "number" });

function page(view, title, lead, headers, rows, empty) {
  const heading = byId(`title-${view}`) ?? el("h1", { id: `title-${view}`, tabindex: -1 }, title);
  const table = el("table", { "aria-labelledby": `title-${view}` }, el("thead", {}, el("tr", {}, headers)), el("tbody", {}, rows));
  fill(byId(`view-${view}`), el("div", {}, heading, el("p", { class: "lead" }, lead)),
    el("div", { class: "plain", role: "region", "aria-label": `${title} as a table`, tabindex: 0 }, rows.length ? table : el("div", { class: "empty" }, empty)));
}

const used = (part, whole) => [whole === null ? count(part) : `${count(part)} of ${count(whole)}`, whole === null ? null : meter(part, whole)];

export function showClasses(model) {
  const today = new Date().toISOString().slice(0, 10);
  const rows = [...model.tables.classes.values()].sort((a, b) => b.precedence - a.precedence || (a.name < b.name ? -1 : 1));
  page(
    "classes",
    "Classes",
    `${plural(rows.length, "class", "classes")}, the highest precedence first.`,
    [th("Class"), th("State"), th("Serves"), th("Sessions", true), th("Slots in use"), th("Guaranteed", true), th("Weight", true), th("Waiting", true), th("Active today"), th("Cost", true)],
    rows.map((row) => {
      const active = row.today === today ? row.todaySeconds : 0;
      const budget = row.budgetSeconds;
      const activity = budget === null ? duration(active) : [`${duration(active)} of ${duration(budget)}`, meter(active, budget)];
      return el("tr", {},
        td(el("a", { href: `#/?class=${encodeURIComponent(row.name)}` }, row.name)),
        td(row.ready === "True" ? "Ready" : row.reason || "–", { title: row.message, class: row.ready === "True" ? null : "long" }),
        td(row.selects, { class: "wrap" }),
        number(count(row.sessions)),
        td(used(row.used, row.maximum)),
        number(count(row.guaranteed)),
        number(count(row.weight)),
        number(count(row.waiting)),
        td(activity),
        number(money(model.classCost(row.name))));
    }),
    [el("strong", {}, "No classes"), el("span", {}, "All sessions are served with the operator’s settings.")],
  );
}

export function showEnvironments(model) {
  const rows = model.environments();
  page(
    "environments",
    "Environments",
    "Where the agents’ tool calls run, as the sessions name them.",
    [th("Environment"), th("Sessions", true), th("Running", true), th("Failed", true), th("Waiting", true), th("Oldest wait", true), th("Slots in use", true), th("Cost", true)],
    rows.map((row) =>
      el("tr", {},
        td(row.id ? el("a", { class: "id", href: `#/?environment=${encodeURIComponent(row.id)}` }, row.id) : "not known yet"),
        number(count(row.sessions)),
        number(count(row.running)),
        number(count(row.failed)),
        number(count(row.waiting)),
        number(elapsed(row.oldest)),
        number(count(row.slots)),
        number(money(row.cost)))),
    [el("strong", {}, "No environment yet"), el("span", {}, "An environment appears with its first session.")],
  );
}
