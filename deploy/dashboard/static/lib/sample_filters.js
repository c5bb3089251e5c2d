// The filters of the sample browser. Each is a parameter of the address.

import { h, put } from "./dom.js";
import { change } from "./state.js";
import { oneLine } from "./text.js";

const SORTS = {
  newest: "newest first",
  oldest: "oldest first",
  prompt: "grouped by prompt",
  reward: "highest log R first",
  "-reward": "lowest log R first",
  log_q: "highest log q first",
  "-log_q": "lowest log q first",
};
const PHASES = { train: "during training", before: "before (evaluation)", after: "after (evaluation)" };
const RANGES = [
  ["log R", "reward", "any"],
  ["step", "step", "1"],
  ["version", "version", "1"],
];

/** Fill `host`; `first` and `last` are further controls of the view. */
export function showFilters(host, first, last, params) {
  const behaviours = h(
    "select",
    { id: "behaviour", onchange: (event) => set("behaviour", event.target.value) },
    h("option", { value: "" }, "all behaviours"),
  );
  const ranges = RANGES.map(([title, name, step]) =>
    h(
      "fieldset",
      { class: "range" },
      h("legend", {}, title),
      bound(`${name}_from`, `${title} from`, step, params),
      "to",
      bound(`${name}_to`, `${title} to`, step, params),
    ),
  );
  const search = (name) =>
    h("input", { type: "search", value: params[name] ?? "", onchange: (event) => set(name, event.target.value) });
  put(
    host,
    first,
    choice("Sort", "sort", SORTS, params.sort ?? "newest"),
    choice("Drawn", "phase", PHASES, params.phase ?? "train"),
    h("label", {}, "Behaviour", behaviours),
    choice(
      "Freshness",
      "fresh",
      { "": "fresh and replayed", true: "fresh only", false: "replayed only" },
      params.fresh ?? "",
    ),
    h("label", {}, "Contains", search("text")),
    h("label", {}, "Regular expression", search("pattern")),
    ranges,
    last,
  );
}

/** Add the behaviours of the run, once they are loaded. */
export function addBehaviours(host, names, chosen) {
  const select = host.querySelector("#behaviour");
  if (select.childElementCount === names.length + 1) return;
  put(
    select,
    h("option", { value: "" }, "all behaviours"),
    names.map((name) => h("option", { value: name }, oneLine(name, 40))),
  );
  select.value = chosen ?? "";
}

function choice(title, name, options, chosen) {
  const select = h(
    "select",
    { onchange: () => set(name, select.value) },
    Object.entries(options).map(([value, text]) => h("option", { value }, text)),
  );
  select.value = chosen;
  return h("label", {}, title, select);
}

function bound(name, title, step, params) {
  return h("input", {
    type: "number",
    step,
    value: params[name] ?? "",
    "aria-label": title,
    onchange: (event) => set(name, event.target.value),
  });
}

function set(name, value) {
  change({ [name]: value, page: "" });
}
