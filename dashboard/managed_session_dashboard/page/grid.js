// A table of any number of rows, of which only those in sight are in the document. All have the same height.
// Arrow keys, Page Up, Page Down, Home and End move between rows; Tab leaves the rows.

import { el } from "./dom.js";

const OVERSCAN = 12;

export class Grid {
  // columns: [{key, title, numeric, cell(row, td), sortable}]; the first with `link` has the row's link.
  constructor(holder, label, columns, onSort) {
    this.holder = holder;
    this.columns = columns;
    this.onSort = onSort;
    this.rows = [];
    this.shown = new Map();
    this.current = null;
    this.height = 36;
    this.headers = columns.map((column) => this.header(column));
    this.head = el("thead", {}, el("tr", { "aria-rowindex": 1 }, this.headers));
    this.body = el("tbody");
    this.table = el("table", { class: "grid", role: "grid", "aria-label": label, "aria-colcount": columns.length }, this.head, this.body);
    this.message = el("div");
    holder.replaceChildren(this.table, this.message);
    holder.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(holder);
    this.body.addEventListener("keydown", (event) => this.onKey(event));
    this.body.addEventListener("focusin", (event) => this.setCurrent(event.target.closest("tr")?.dataset.name));
  }

  header(column) {
    const arrow = el("span", { class: "arrow", "aria-hidden": "true" });
    const button = el("button", { type: "button", onclick: () => this.onSort(column.key) }, column.title, arrow);
    return el("th", { scope: "col", class: `c-${column.key}${column.numeric ? " number" : ""}` }, button);
  }

  showSort({ column, descending }) {
    this.columns.forEach(({ key }, index) => {
      const header = this.headers[index];
      const sorted = key === column;
      if (sorted) header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else header.removeAttribute("aria-sort");
      header.querySelector(".arrow").textContent = sorted ? (descending ? "▼" : "▲") : "";
    });
  }

  // `rows` have a unique `name`. `notice` is shown below the header instead of rows.
  update(rows, notice) {
    this.rows = rows;
    this.index = new Map(rows.map((row, index) => [row.name, index]));
    if (!this.index.has(this.current)) this.current = rows[0]?.name ?? null;
    this.table.setAttribute("aria-rowcount", rows.length + 1);
    this.message.replaceChildren(...(notice ? [notice] : []));
    this.draw();
  }

  // Begins at the first row again, because the rows or their order have been chosen anew.
  toTop() {
    this.current = null;
    this.holder.scrollTop = 0;
  }

  // Draws the rows in sight anew, for texts that change with time.
  tick() {
    for (const shown of this.shown.values()) this.fill(shown);
  }

  draw() {
    const measured = this.body.querySelector("tr[data-name]")?.offsetHeight;
    if (measured) this.height = measured;
    const top = this.holder.scrollTop;
    const first = Math.max(0, Math.floor(top / this.height) - OVERSCAN);
    const last = Math.min(this.rows.length, Math.ceil((top + this.holder.clientHeight) / this.height) + OVERSCAN);
    const wanted = new Set();
    for (let index = first; index < last; index += 1) wanted.add(index);
    // The row that has the focus stays, so that the focus is not lost.
    const current = this.index?.get(this.current);
    if (current !== undefined) wanted.add(current);
    this.place([...wanted].sort((a, b) => a - b));
  }

  place(indexes) {
    const names = new Set(indexes.map((index) => this.rows[index].name));
    for (const [name, shown] of this.shown) {
      if (!names.has(name)) {
        shown.tr.remove();
        this.shown.delete(name);
      }
    }
    this.spacers ??= [];
    let used = 0;
    let next = this.body.firstChild;
    const put = (node) => {
      if (node === next) next = next.nextSibling;
      else this.body.insertBefore(node, next);
    };
    let expected = 0;
    for (const index of [...indexes, this.rows.length]) {
      if (index > expected) put(this.spacer(used++, index - expected));
      if (index < this.rows.length) put(this.shownRow(index).tr);
      expected = index + 1;
    }
    while (next) {
      const rest = next.nextSibling;
      next.remove();
      next = rest;
    }
  }

  spacer(number, rows) {
    this.spacers[number] ??= el("tr", { class: "spacer", role: "presentation", "aria-hidden": "true" }, el("td"));
    this.spacers[number].firstChild.style.height = `${rows * this.height}px`;
    return this.spacers[number];
  }

  shownRow(index) {
    const row = this.rows[index];
    let shown = this.shown.get(row.name);
    if (!shown) {
      const cells = this.columns.map((column) => el("td", { class: `c-${column.key}${column.numeric ? " number" : ""}` }));
      shown = { tr: el("tr", { "data-name": row.name }, cells), cells, row: null };
      this.shown.set(row.name, shown);
    }
    shown.tr.setAttribute("aria-rowindex", index + 2);
    if (shown.row !== row) {
      shown.row = row;
      this.fill(shown);
    }
    const link = shown.tr.querySelector("a");
    if (link) link.tabIndex = row.name === this.current ? 0 : -1;
    return shown;
  }

  fill({ row, cells }) {
    this.columns.forEach((column, index) => column.cell(row, cells[index]));
  }

  setCurrent(name) {
    if (!name || name === this.current) return;
    for (const each of [this.current, name]) {
      const link = this.shown.get(each)?.tr.querySelector("a");
      if (link) link.tabIndex = each === name ? 0 : -1;
    }
    this.current = name;
  }

  onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !this.rows.length) return;
    const page = Math.max(1, Math.floor((this.holder.clientHeight - this.head.offsetHeight) / this.height) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const from = this.index.get(this.current) ?? 0;
    this.focus(Math.min(this.rows.length - 1, Math.max(0, from + steps[event.key])));
  }

  focus(index) {
    const head = this.head.offsetHeight;
    const top = index * this.height;
    const view = this.holder.clientHeight - head;
    if (top < this.holder.scrollTop) this.holder.scrollTop = top;
    else if (top + this.height > this.holder.scrollTop + view) this.holder.scrollTop = top + this.height - view;
    this.setCurrent(this.rows[index].name);
    this.draw();
    this.shown.get(this.current)?.tr.querySelector("a")?.focus({ preventScroll: true });
  }
}
