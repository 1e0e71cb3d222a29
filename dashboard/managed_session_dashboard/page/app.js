// Starts the page: reads the address, shows the view, and keeps it up to date.

import { byId, setText } from "./dom.js";
import { Feed } from "./feed.js";
import { setServerTime, timeOfDay } from "./format.js";
import { showClasses, showEnvironments } from "./lists.js";
import { Model } from "./model.js";
import { SessionPage } from "./session.js";
import { SessionsView } from "./sessions.js";

const VIEWS = ["sessions", "session", "classes", "environments", "signed-out"];
const TITLES = { sessions: "Sessions", session: "Session", classes: "Classes", environments: "Environments", "signed-out": "Signed out" };

const model = new Model();
const announce = (text) => setText(byId("announce"), text);
const sessions = new SessionsView(model, announce);
const feed = new Feed({
  onLoad(board) {
    setServerTime(board.now);
    model.load(board);
    loaded = true;
    setText(byId("namespace"), board.fixed.namespace);
    schedule();
  },
  onChanges(changes, position) {
    model.apply(changes, position);
    schedule();
  },
  onState(state) {
    setServerTime(state.now);
    const since = state.since ? ` since ${timeOfDay(state.since)}` : "";
    if (state.problem) showBanner(`Not up to date${since}: ${state.problem}. The last known state is shown.`);
    else showBanner(state.synced ? "" : "The dashboard has just started, and is still reading what there is.");
  },
  onSession: () => page.refresh(),
  onLive(live) {
    const before = byId("live").dataset.state;
    byId("live").dataset.state = live ? "live" : "lost";
    setText(byId("live-text"), live ? "Live" : "Reconnecting");
    if (!live && before === "live") announce("Connection lost. Reconnecting.");
    if (live && before === "lost") announce("Connection restored.");
    if (live && before === "lost") page.refresh();
  },
  onSignedOut() {
    model.clear();
    sessions.update();
    page.name = "";
    showBanner("");
    for (const each of document.querySelectorAll(".account > :not(.live)")) each.hidden = true;
    byId("live").dataset.state = "out";
    setText(byId("live-text"), "Signed out");
    signedOut = true;
    route();
  },
});
const page = new SessionPage(model, (path) => feed.read(path));

let loaded = false;
let signedOut = false;
let view = "sessions";
let scheduled = false;

function showBanner(text) {
  byId("banner").hidden = text === "";
  setText(byId("banner"), text);
}

function schedule() {
  if (scheduled) return;
  scheduled = true;
  // A page in the background is drawn once it is in sight again.
  requestAnimationFrame(() => {
    scheduled = false;
    draw();
  });
}

function draw() {
  if (!loaded) return;
  if (view === "sessions") sessions.update();
  else if (view === "classes") showClasses(model);
  else if (view === "environments") showEnvironments(model);
}

function route(event) {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  const [, first = "", second = ""] = path.split("/");
  const before = view;
  const named = first === "sessions" && second ? decode(second) : "";
  if (signedOut) view = "signed-out";
  else if (named) view = "session";
  else view = first === "classes" || first === "environments" ? first : "sessions";
  if (view === "sessions" && query) {
    const wanted = new URLSearchParams(query);
    model.filter = { phase: "", text: "" };
    for (const key of ["class", "agent", "environment"]) model.filter[key] = wanted.get(key) ?? "";
    history.replaceState(null, "", "#/");
  }
  for (const each of VIEWS) byId(`view-${each}`).hidden = each !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  feed.follow(named);
  if (view === "session") page.open(named);
  else page.name = "";
  draw();
  document.title = `${view === "session" ? page.title.textContent : TITLES[view]} · managed-sessions`;
  // After a change of view, people with a screen reader start at its heading.
  if (event && before !== view) byId(`title-${view}`)?.focus({ preventScroll: view === "sessions" });
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

window.addEventListener("hashchange", route);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
setInterval(() => {
  if (document.hidden || !loaded) return;
  if (view === "sessions") sessions.tick();
  else if (view === "session") page.tick();
}, 1000);

route();
feed.start();
feed.read("api/viewer").then((viewer) => {
  setText(byId("user"), (viewer?.user ?? "").replace(/^system:serviceaccount:/, ""));
  byId("user").title = viewer?.user ?? "";
}, () => {});
