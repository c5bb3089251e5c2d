// Strings that the model wrote: to browse, to read token by token, to compare before and after.

import { h, put } from "../lib/dom.js";
import { plain } from "../lib/format.js";
import { Panel } from "../lib/panel.js";
import { promptSelect } from "../lib/prompt_select.js";
import { showBeforeAfter } from "../lib/before_after.js";
import { addBehaviours, showFilters } from "../lib/sample_filters.js";
import { sampleRow } from "../lib/sample_row.js";
import { showOne } from "../lib/sample_page.js";
import { change, link } from "../lib/state.js";
import { nothingYet } from "../lib/status.js";
import { MODES, scale, teller } from "../lib/tokens.js";

const PAGE = 25;
const ASKED = [
  "prompt",
  "behaviour",
  "phase",
  "fresh",
  "reward_from",
  "reward_to",
  "step_from",
  "step_to",
  "version_from",
  "version_to",
  "text",
  "sort",
  "page",
];

export function render(root, live, params) {
  if (params.id) return one(root, live, params);
  if (params.show === "compare") return beforeAfter(root, live, params);
  return list(root, live, params);
}

function tabs(now, run) {
  const tab = (name, text, show) =>
    h("a", { href: link("samples", { run, show }), "aria-current": now === name ? "page" : null }, text);
  return h("p", { class: "tabs" }, tab("list", "Browse", ""), " · ", tab("compare", "Before and after", "compare"));
}

/** Choose what tokens are coloured by. */
function modes(chosen) {
  const select = h(
    "select",
    { onchange: () => change({ colour: select.value }) },
    Object.entries(MODES).map(([name, { title }]) => h("option", { value: name }, title)),
  );
  select.value = chosen;
  return h("label", {}, "Colour tokens by", select);
}

function modeOf(params) {
  return params.colour in MODES ? params.colour : "log_q";
}

function list(root, live, params) {
  let now = params,
    shown = [];
  const select = promptSelect(live.run, params.prompt);
  const filters = h("div", { class: "filters" }),
    state = h("div", {}),
    rows = h("div", { class: "card" }),
    pager = h("nav", { class: "pager", "aria-label": "Pages" }),
    key = h("div", {});
  const teach = teller();
  root.append(tabs("list", live.run), filters, key, state, rows, pager, teach.element);
  showFilters(filters, select.element, modes(modeOf(params)), params);
  rows.hidden = true;

  const panel = new Panel(
    state,
    () => ["samples", { run: live.run, limit: PAGE, ...Object.fromEntries(ASKED.map((name) => [name, now[name]])) }],
    (answer) => {
      addBehaviours(filters, answer.behaviours, now.behaviour);
      put(state, !answer.total && nothingYet(live.overview, narrowed(now) ? "no samples that fit" : "no samples"));
      rows.hidden = !answer.total;
      shown = answer.samples;
      draw();
      showPager(pager, answer);
    },
    5000,
  );

  function draw() {
    const mode = modeOf(now);
    put(key, scale(mode));
    put(
      rows,
      shown.map((sample) => sampleRow(sample, mode, live.run, teach.told)),
    );
  }

  panel.load();
  return {
    // New samples would move what is being read: only the first page of the newest is kept up to date, and not under a cursor.
    tick: ({ fresh }) =>
      fresh.samples &&
      !Number(now.page) &&
      (now.sort ?? "newest") === "newest" &&
      !rows.matches(":hover, :focus-within") &&
      panel.tick(),
    reset: () => panel.load(),
    change: (next) => {
      if (next.id || next.show) return reopen();
      const asked = JSON.stringify(ASKED.map((name) => next[name])) !== JSON.stringify(ASKED.map((name) => now[name]));
      now = next;
      if (asked) panel.load();
      else draw();
    },
    close: () => panel.close(),
  };
}

function narrowed(params) {
  return ASKED.some((name) => params[name] && name !== "sort" && name !== "page");
}

function showPager(host, { total, page, limit, samples }) {
  const turn = (to, text, on) =>
    h("button", { type: "button", disabled: !on, onclick: () => change({ page: to || "" }) }, text);
  const last = (page + 1) * limit >= total;
  const where = samples.length
    ? `${plain(page * limit + 1)} to ${plain(page * limit + samples.length)} of ${plain(total)}`
    : "";
  put(
    host,
    turn(page - 1, "← Earlier page", page > 0),
    h("span", {}, where),
    turn(page + 1, "Next page →", !last && samples.length),
  );
}

function one(root, live, params) {
  const host = h("div", {}),
    teach = teller();
  root.append(
    h("p", {}, h("a", { href: link("samples", { run: live.run }) }, "← All samples")),
    h("div", { class: "filters" }, modes(modeOf(params))),
    host,
    teach.element,
  );
  let mode = modeOf(params),
    sample = null,
    close = () => {};
  const panel = new Panel(
    host,
    () => [`samples/${encodeURIComponent(params.id)}`, { run: live.run }],
    (answer) => {
      sample = answer;
      draw();
    },
  );
  function draw() {
    close();
    close = showOne(host, sample, mode, live.run, teach.told);
  }
  panel.load();
  return {
    change: (next) => {
      if (next.id !== params.id) return reopen();
      mode = modeOf(next);
      if (sample) draw();
    },
    close: () => {
      panel.close();
      close();
    },
  };
}

function beforeAfter(root, live, params) {
  const select = promptSelect(live.run, params.prompt, null);
  const state = h("div", {}),
    host = h("div", {});
  root.append(tabs("compare", live.run), h("div", { class: "filters" }, select.element), state, host);
  let prompt = params.prompt;
  const panel = new Panel(
    state,
    () => ["before-after", { run: live.run, prompt }],
    (answer) => {
      put(state);
      showBeforeAfter(host, answer, live.run);
    },
  );
  const begin = async () => {
    const prompts = await select.ready;
    prompt ??= prompts[0]?.id;
    if (prompt === undefined) put(state, nothingYet(live.overview, "no prompts"));
    else panel.load();
  };
  begin();
  return {
    reset: () => prompt !== undefined && panel.load(),
    change: (next) => {
      if (next.show !== "compare") return reopen();
      prompt = next.prompt;
      panel.load();
    },
    close: () => panel.close(),
  };
}

/** From the list to one string and back is another page of the same view. */
function reopen() {
  window.dispatchEvent(new CustomEvent("reopen"));
}
