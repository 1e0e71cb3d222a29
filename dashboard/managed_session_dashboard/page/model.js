// Holds the tables of the server, and derives from them what the views show. Knows no element.

export const PHASES = ["Failed", "Running", "Provisioning", "Pending", "Terminating", "Suspended", "Idle"];
const ACTIVE = new Set(["Running", "Creating"]);

export class Model {
  constructor() {
    this.fixed = {};
    this.tables = { sessions: new Map(), classes: new Map(), shared: new Map() };
    this.columns = {};
    this.position = "";
    this.filter = { phase: "", text: "", class: "", agent: "", environment: "" };
    this.sort = { column: "phase", descending: false };
    this.searchable = new WeakMap();
  }

  load(board) {
    this.fixed = board.fixed;
    this.position = board.position;
    for (const [table, names] of Object.entries(board.fixed.columns)) {
      this.columns[table] = names;
      this.tables[table] = new Map(board.tables[table].map((values) => [values[0], this.row(table, values)]));
    }
  }

  apply(changes, position) {
    for (const [table, { rows, removed }] of Object.entries(changes)) {
      for (const name of removed) this.tables[table].delete(name);
      for (const values of rows) this.tables[table].set(values[0], this.row(table, values));
    }
    this.position = position;
  }

  row(table, values) {
    const made = {};
    this.columns[table].forEach((name, index) => (made[name] = values[index]));
    return made;
  }

  clear() {
    for (const table of Object.values(this.tables)) table.clear();
  }

  get filtered() {
    return Object.values(this.filter).some(Boolean);
  }

  // Everything that the sessions' view shows, in one pass over the rows.
  overview() {
    const phases = new Map(PHASES.map((phase) => [phase, 0]));
    const choices = { class: new Set(), agent: new Set(), environment: new Set() };
    const found = { phases, choices, waiting: 0, oldest: null, users: 0, slots: 0, cost: null };
    for (const row of this.tables.sessions.values()) {
      phases.set(row.phase, (phases.get(row.phase) ?? 0) + 1);
      for (const key of Object.keys(choices)) if (row[key]) choices[key].add(row[key]);
      if (row.waiting !== null) {
        found.waiting += 1;
        if (found.oldest === null || row.waiting < found.oldest.waiting) found.oldest = row;
      }
      if (row.reason === "AwaitingUser") found.users += 1;
      if (ACTIVE.has(row.sandbox) && !row.shared) found.slots += 1;
      if (typeof row.cost === "number") found.cost = (found.cost ?? 0) + row.cost;
    }
    for (const row of this.tables.shared.values()) if (ACTIVE.has(row.state)) found.slots += 1;
    return found;
  }

  chosen() {
    const { phase, text, ...exact } = this.filter;
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const keys = Object.keys(exact).filter((key) => exact[key]);
    const rows = [...this.tables.sessions.values()].filter(
      (row) =>
        (!phase || row.phase === phase) &&
        keys.every((key) => row[key] === exact[key]) &&
        (words.length === 0 || words.every((word) => this.textOf(row).includes(word))),
    );
    return rows.sort(this.order());
  }

  textOf(row) {
    let text = this.searchable.get(row);
    if (text === undefined) {
      text = [row.session, row.name, row.phase, row.reason, row.message, row.class, row.agent, row.environment].join(" ").toLowerCase();
      this.searchable.set(row, text);
    }
    return text;
  }

  order() {
    const { column, descending } = this.sort;
    const key = KEYS[column];
    const sign = descending ? -1 : 1;
    return (a, b) => {
      const [left, right] = [key(a), key(b)];
      // What has no value is last in either direction.
      if (left === null || right === null) {
        if (left !== right) return left === null ? 1 : -1;
      } else if (left !== right) {
        return (left < right ? -1 : 1) * sign;
      }
      return (a.waiting ?? Infinity) - (b.waiting ?? Infinity) || (b.active ?? 0) - (a.active ?? 0) || (a.name < b.name ? -1 : 1);
    };
  }

  environments() {
    const found = new Map();
    for (const row of this.tables.sessions.values()) {
      const id = row.environment || "";
      if (!found.has(id)) found.set(id, { id, sessions: 0, running: 0, waiting: 0, failed: 0, slots: 0, oldest: null, cost: null });
      const each = found.get(id);
      each.sessions += 1;
      if (row.phase === "Running") each.running += 1;
      if (row.phase === "Failed") each.failed += 1;
      if (ACTIVE.has(row.sandbox) && !row.shared) each.slots += 1;
      if (row.waiting !== null) {
        each.waiting += 1;
        each.oldest = Math.min(each.oldest ?? Infinity, row.waiting);
      }
      if (typeof row.cost === "number") each.cost = (each.cost ?? 0) + row.cost;
    }
    return [...found.values()].sort((a, b) => b.sessions - a.sessions || (a.id < b.id ? -1 : 1));
  }

  classCost(name) {
    let cost = null;
    for (const row of this.tables.sessions.values()) {
      if (row.class === name && typeof row.cost === "number") cost = (cost ?? 0) + row.cost;
    }
    return cost;
  }
}

const KEYS = {
  phase: (row) => {
    const index = PHASES.indexOf(row.phase);
    return index < 0 ? PHASES.length : index;
  },
  session: (row) => row.session.toLowerCase(),
  reason: (row) => row.reason || null,
  class: (row) => row.class || null,
  agent: (row) => row.agent || null,
  // The longest wait is the largest.
  wait: (row) => (row.waiting === null ? null : -row.waiting),
  turns: (row) => row.turns,
  cost: (row) => (typeof row.cost === "number" ? row.cost : null),
  active: (row) => row.active,
};
