// Makes texts for people from numbers and times (seconds since the epoch).

let ahead = 0;

// The server's clock counts: times of resources come from there.
export function setServerTime(seconds) {
  ahead = seconds - Date.now() / 1000;
}

export const now = () => Date.now() / 1000 + ahead;

const counts = new Intl.NumberFormat("en");
export const count = (number) => counts.format(number);

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

export function duration(seconds) {
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)}m ${String(Math.floor(s % 60)).padStart(2, "0")}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}m`;
  return `${Math.floor(s / 86400)}d ${Math.floor((s % 86400) / 3600)}h`;
}

// Coarser, because it stands in a column of many.
export function ago(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.max(0, now() - seconds);
  if (s < 60) return `${Math.floor(s)} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
  return `${Math.floor(s / 86400)} d ago`;
}

export const elapsed = (since) => (since === null || since === undefined ? "–" : duration(Math.floor(now() - since)).replace(".0", ""));

export function money(amount, currency = "USD") {
  if (typeof amount !== "number") return "–";
  const digits = amount !== 0 && Math.abs(amount) < 0.1 ? 4 : 2;
  const shown = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  try {
    return amount.toLocaleString("en", { style: "currency", currency: currency || "USD", ...shown });
  } catch {
    return `${amount.toLocaleString("en", shown)} ${currency}`;
  }
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });

export function timeOfDay(seconds) {
  const date = new Date(seconds * 1000);
  const today = day.format(new Date()) === day.format(date);
  return today ? clock.format(date) : `${day.format(date)}, ${clock.format(date)}`;
}

export const iso = (seconds) => new Date(seconds * 1000).toISOString();

export function parse(time) {
  const value = time ? Date.parse(time) : NaN;
  return Number.isNaN(value) ? null : value / 1000;
}
