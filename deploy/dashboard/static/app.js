// The page: opens the view named in the address and passes it the updates of one live connection.

import { get, login } from "./lib/api.js";
import { h, put, setText } from "./lib/dom.js";
import { loadFigures } from "./lib/figures.js";
import { Keys } from "./lib/keys.js";
import { Live } from "./lib/live.js";
import { showLoginForm } from "./lib/login.js";
import { link, read } from "./lib/state.js";
import { errorStatus, status } from "./lib/status.js";
import { oneLine } from "./lib/text.js";
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
const SHARED_PARAMS = ["run", "x", "from", "to", "smooth"]; // kept when the view changes

const RUNS_INTERVAL_MS = 20000;

const main = document.getElementById("main");
const nav = document.getElementById("views");
const live = new Live();
let runs = [];
let open = null; // {name, run, handle}

apply();
const topBar = new Top(document.getElementById("top"), live);
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

live.addEventListener("tick", ({ detail }) => forward("tick", detail));
live.addEventListener("reset", () => forward("reset"));
live.addEventListener("connection", () => {
  if (live.connection === "unauthorised") showLogin();
});
window.addEventListener("hashchange", () => (location.hash.startsWith("#token=") ? start() : show()));
window.addEventListener("reopen", () => {
  closeView();
  show();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !live.paused) forward("reset");
});
setInterval(() => refreshRuns(), RUNS_INTERVAL_MS);
start();

async function start() {
  try {
    await sendToken();
    runs = await loadRuns();
  } catch (error) {
    if (error.kind === "unauthorised") return showLogin();
    put(main, errorStatus(error));
    setTimeout(start, 3000);
    return undefined;
  }
  return show();
}

/** The address that the command printed may hold the token, which does not stay in the address bar. */
async function sendToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return;
  await login(token).catch((error) => {
    if (error.kind !== "unauthorised") throw error; // the server is not up yet: start() tries again
  });
  history.replaceState(null, "", location.pathname);
}

/** The runs; with the first of them, the figures that its views show. */
async function loadRuns() {
  const { runs: listed } = await get("runs");
  if (listed.length) await loadFigures();
  return listed;
}

/** Runs start and end while the page is open. */
async function refreshRuns() {
  if (document.hidden || (runs.length && live.connection !== "live")) return;
  const listed = await loadRuns().catch(() => null);
  if (!listed || JSON.stringify(listed) === JSON.stringify(runs)) return;
  const first = !runs.length;
  runs = listed;
  if (first) show();
  else topBar.setRuns(runs, live.run);
}

function showLogin() {
  if (main.querySelector("form.login")) return;
  closeView();
  showLoginForm(main, () => {
    put(main, status("loading", "Loading the page …"));
    start();
  });
  live.disconnect();
}

/** Open the view that the address names. */
function show() {
  const { view, params } = read();
  const entry = VIEWS.find(([name]) => name === view);
  if (!runs.length)
    return put(
      main,
      status(
        "empty",
        "There is no run yet.",
        "Start one with tributary train, or open its folder: tributary dashboard --run DIR.",
      ),
    );
  if (!entry)
    return put(main, status("error", `The view ${oneLine(view, 40)} does not exist.`, "Choose one from the list."));
  const run = params.run || runs.find((one) => one.primary)?.id || runs[0].id;
  if (run !== live.run || !live.source) {
    live.follow(run);
    topBar.setRuns(runs, run);
  }
  if (open && open.name === view && open.run === run && open.handle.change) {
    open.handle.change(params);
  } else {
    closeView();
    put(main);
    const root = h("div", { class: `view ${view}` }, h("h1", {}, TITLES[view]));
    main.append(root);
    open = { name: view, run, handle: entry[1].render(root, live, params) };
    window.scrollTo(0, 0);
  }
  topBar.menu(false);
  showTitle(view, run);
  return undefined;
}

function closeView() {
  open?.handle.close?.();
  open = null;
}

/** Pass an event to the open view; ticks are skipped while the page is hidden. */
function forward(event, detail) {
  if (event === "tick" && document.hidden) return;
  open?.handle[event]?.(detail);
}

function showTitle(view, run) {
  setText(document.querySelector("title"), `${TITLES[view]} – ${oneLine(run, 40)} – Tributary`);
  for (const a of links) {
    a.href = address(a.dataset.view);
    if (a.dataset.view === view) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
}

function address(name) {
  const { params } = read();
  return link(name, Object.fromEntries(SHARED_PARAMS.map((key) => [key, params[key]])));
}
