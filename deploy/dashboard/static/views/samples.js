// The samples view: a list of strings, one string token by token, and samples from before and after training.

import { address } from "../lib/api.js";
import { h, put } from "../lib/dom.js";
import { plain } from "../lib/format.js";
import { Panel } from "../lib/panel.js";
import { promptSelect } from "../lib/prompt_select.js";
import { showBeforeAfter } from "../lib/before_after.js";
import { addBehaviours, showFilters } from "../lib/sample_filters.js";
import { promptLine, sampleRow } from "../lib/sample_row.js";
import { showOne } from "../lib/sample_page.js";
import { change, link } from "../lib/state.js";
import { emptyStatus } from "../lib/status.js";
import { MODES, colourKey, tokenDetail } from "../lib/tokens.js";

const PAGE = 25;
const QUERY_PARAMS = [
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
  "pattern",
  "sort",
  "page",
];

export function render(root, live, params) {
  if (params.id) return one(root, live, params);
  if (params.show === "compare") return beforeAfter(root, live, params);
  return list(root, live, params);
}

function tabs(selected, run) {
  const tab = (name, text, show) =>
    h("a", { href: link("samples", { run, show }), "aria-current": selected === name ? "page" : null }, text);
  return h("p", { class: "tabs" }, tab("list", "Browse", ""), " · ", tab("compare", "Before and after", "compare"));
}

/** A select of the value that colours the tokens. */
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
  let current = params,
    shown = [],
    prompts = {};
  const select = promptSelect(live.run, params.prompt);
  const filters = h("div", { class: "filters" }),
    state = h("div", {}),
    rows = h("div", { class: "card" }),
    pager = h("nav", { class: "pager", "aria-label": "Pages" }),
    key = h("div", {}),
    save = h("p", { class: "note" });
  const detail = tokenDetail();
  root.append(tabs("list", live.run), filters, key, state, rows, pager, save, detail.element);
  showFilters(filters, select.element, modes(modeOf(params)), params);
  rows.hidden = true;

  const panel = new Panel(
    state,
    () => ["samples", { run: live.run, limit: PAGE, ...Object.fromEntries(QUERY_PARAMS.map((name) => [name, current[name]])) }],
    (response) => {
      addBehaviours(filters, response.behaviours, current.behaviour);
      put(state, !response.total && emptyStatus(live.overview, isFiltered(current) ? "no samples that match the filters" : "no samples"));
      rows.hidden = !response.total;
      ({ samples: shown, prompts } = response);
      draw();
      showPager(pager, response);
      put(save, h("a", { href: saveAddress(), download: "samples.jsonl" }, `Save ${plain(response.total)} samples as JSON Lines`));
    },
    5000,
  );

  function saveAddress() {
    const chosen = QUERY_PARAMS.filter((name) => name !== "page").map((name) => [name, current[name]]);
    return address("samples.jsonl", { run: live.run, ...Object.fromEntries(chosen) });
  }

  function draw() {
    const mode = modeOf(current);
    put(key, colourKey(mode));
    const grouped = current.sort === "prompt";
    const isFirst = (sample, n) => !n || shown[n - 1].prompt_id !== sample.prompt_id;
    put(
      rows,
      shown.map((sample, n) => {
        const prompt = prompts[sample.prompt_id];
        if (!grouped) return sampleRow(sample, mode, live.run, detail.show, prompt);
        const row = sampleRow(sample, mode, live.run, detail.show);
        return isFirst(sample, n) ? [h("h3", { class: "group-head" }, promptLine(prompt)), row] : [row];
      }),
    );
  }

  panel.load();
  return {
    // New samples would move the list while it is read: update only the first page of the newest, and not under the cursor.
    tick: ({ fresh }) =>
      fresh.samples &&
      !Number(current.page) &&
      (current.sort ?? "newest") === "newest" &&
      !rows.matches(":hover, :focus-within") &&
      panel.tick(),
    reset: () => panel.load(),
    change: (next) => {
      if (next.id || next.show) return reopen();
      const changed = JSON.stringify(QUERY_PARAMS.map((name) => next[name])) !== JSON.stringify(QUERY_PARAMS.map((name) => current[name]));
      current = next;
      if (changed) panel.load();
      else draw();
    },
    close: () => panel.close(),
  };
}

function isFiltered(params) {
  return QUERY_PARAMS.some((name) => params[name] && name !== "sort" && name !== "page");
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
    turn(page - 1, "← Previous page", page > 0),
    h("span", {}, where),
    turn(page + 1, "Next page →", !last && samples.length),
  );
}

function one(root, live, params) {
  const host = h("div", {}),
    detail = tokenDetail();
  root.append(
    h("p", {}, h("a", { href: link("samples", { run: live.run }) }, "← All samples")),
    h("div", { class: "filters" }, modes(modeOf(params))),
    host,
    detail.element,
  );
  let mode = modeOf(params),
    sample = null,
    close = () => {};
  const panel = new Panel(
    host,
    () => [`samples/${encodeURIComponent(params.id)}`, { run: live.run }],
    (response) => {
      sample = response;
      draw();
    },
  );
  function draw() {
    close();
    close = showOne(host, sample, mode, live.run, detail.show);
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
    (response) => {
      put(state);
      showBeforeAfter(host, response, live.run);
    },
  );
  const begin = async () => {
    const prompts = await select.ready;
    prompt ??= prompts[0]?.id;
    if (prompt === undefined) put(state, emptyStatus(live.overview, "no prompts"));
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

/** Rebuild the view: the list and a single sample are different pages of it. */
function reopen() {
  window.dispatchEvent(new CustomEvent("reopen"));
}
