// The page: opens the view that the address names, and keeps it fed from one live connection.

import { get } from "./lib/api.js";
import { h, put, say } from "./lib/dom.js";
import { Keys } from "./lib/keys.js";
import { Live } from "./lib/live.js";
import { askForToken } from "./lib/login.js";
import { link, read } from "./lib/state.js";
import { failure, status } from "./lib/status.js";
import { plainly } from "./lib/text.js";
import { apply, toggle } from "./lib/theme.js";
import { Top } from "./lib/top.js";
import * as actors from "./views/actors.js";
import * as buffer from "./views/buffer.js";
import * as compare from "./views/compare.js";
import * as events from "./views/events.js";
import * as learner from "./views/learner.js";
import * as overview from "./views/overview.js";
import * as posterior from "./views/posterior.js";
import * as rewards from "./views/rewards.js";
import * as samples from "./views/samples.js";

// A view: render(root, live, params) -> {tick(tick), reset(), change(params), close()}, each of them optional.
const VIEWS = Object.entries({ overview, buffer, rewards, posterior, learner, actors, samples, compare, events });
const TITLES = {
  overview: "Overview",
  buffer: "Buffer",
  rewards: "Rewards",
  posterior: "Posterior",
  learner: "Learner",
  actors: "Actors",
  samples: "Samples",
  compare: "Compare runs",
  events: "Events",
};
const KEPT = ["run", "x", "from", "to"]; // parameters that go along from view to view

const RUNS_EVERY_MS = 20000;

const main = document.getElementById("main");
const nav = document.getElementById("views");
const live = new Live();
let runs = [];
let open = null; // {name, run, handle}

apply();
const top_ = new Top(document.getElementById("top"), live);
const keys = new Keys(
  VIEWS.map(([name]) => ({ name, title: TITLES[name] })),
  { p: ["pause or resume", () => live.pause(!live.paused)], t: ["light or dark", toggle] },
  (name) => {
    location.hash = address(name);
  },
);
const links = VIEWS.map(([name], n) =>
  h("a", { href: link(name), "data-view": name, "aria-keyshortcuts": String(n + 1) }, TITLES[name]),
);
put(nav, links, h("button", { type: "button", class: "quiet", onclick: () => keys.dialog.showModal() }, "Keys"));

live.addEventListener("tick", ({ detail }) => feed("tick", detail));
live.addEventListener("reset", () => feed("reset"));
live.addEventListener("connection", () => {
  if (live.connection === "unauthorised") needToken();
});
window.addEventListener("hashchange", () => show());
window.addEventListener("reopen", () => {
  leave();
  show();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !live.paused) feed("reset");
});
setInterval(() => renewRuns(), RUNS_EVERY_MS);
start();

async function start() {
  try {
    runs = (await get("runs")).runs;
  } catch (error) {
    if (error.kind === "unauthorised") return needToken();
    put(main, failure(error));
    setTimeout(start, 3000);
    return undefined;
  }
  return show();
}

/** Runs begin and end while the page is open. */
async function renewRuns() {
  if (document.hidden || (runs.length && live.connection !== "live")) return;
  const found = await get("runs").catch(() => null);
  if (!found || JSON.stringify(found.runs) === JSON.stringify(runs)) return;
  const first = !runs.length;
  runs = found.runs;
  if (first) show();
  else top_.setRuns(runs, live.run);
}

function needToken() {
  if (main.querySelector("form.login")) return;
  leave();
  askForToken(main, () => {
    put(main, status("loading", "Loading the page …"));
    start();
  });
  live.refuse();
}

/** Open what the address names. */
function show() {
  const { view, params } = read();
  const found = VIEWS.find(([name]) => name === view);
  if (!runs.length)
    return put(
      main,
      status(
        "empty",
        "No run is known here yet.",
        "Start one with tributary train, or name its folder: tributary dashboard --run DIR.",
      ),
    );
  if (!found)
    return put(main, status("error", `There is no view named ${plainly(view, 40)}.`, "Choose one from the list."));
  const run = params.run || runs.find((one) => one.primary)?.id || runs[0].id;
  if (run !== live.run || !live.source) {
    live.follow(run);
    top_.setRuns(runs, run);
  }
  if (open && open.name === view && open.run === run && open.handle.change) {
    open.handle.change(params);
  } else {
    leave();
    put(main);
    const root = h("div", { class: `view ${view}` }, h("h1", {}, TITLES[view]));
    main.append(root);
    open = { name: view, run, handle: found[1].render(root, live, params) };
    window.scrollTo(0, 0);
  }
  top_.menu(false);
  title(view, run);
  return undefined;
}

function leave() {
  open?.handle.close?.();
  open = null;
}

/** Hand news to the open view, unless nobody looks. */
function feed(what, detail) {
  if (what === "tick" && document.hidden) return;
  open?.handle[what]?.(detail);
}

function title(view, run) {
  say(document.querySelector("title"), `${TITLES[view]} – ${plainly(run, 40)} – Tributary`);
  for (const a of links) {
    a.href = address(a.dataset.view);
    if (a.dataset.view === view) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
}

function address(name) {
  const { params } = read();
  return link(name, Object.fromEntries(KEPT.map((key) => [key, params[key]])));
}
