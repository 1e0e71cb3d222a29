// Builds elements. Text from resources only ever becomes text nodes: nothing here parses HTML.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "onclick") made.addEventListener("click", value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export const byId = (id) => document.getElementById(id);

export function fill(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

// Sets a text only if it differs, so that selections and assistive technology are left alone.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export const phaseBadge = (phase) =>
  el("span", { class: `phase ${classOf(phase)}` }, el("span", { class: `mark ${classOf(phase)}`, "aria-hidden": "true" }), phase);

// A phase of a newer version must not become a class by accident.
const classOf = (phase) => (/^[A-Za-z]+$/.test(phase) ? phase : "");

export function meter(part, whole) {
  const share = whole > 0 ? Math.min(1, part / whole) : 0;
  const filled = el("span");
  filled.style.width = `${(100 * share).toFixed(1)}%`;
  return el("span", { class: share >= 1 ? "meter full" : "meter", "aria-hidden": "true" }, filled);
}
