// What happened: restarts, versions, quarantines, alerts. Newest first.

import { get } from "../lib/api.js";
import { h, put, renew, scroller } from "../lib/dom.js";
import { clock, plain, utc } from "../lib/format.js";
import { Panel } from "../lib/panel.js";
import { change } from "../lib/state.js";
import { errorStatus, emptyStatus } from "../lib/status.js";
import { oneLine, safeText } from "../lib/text.js";
import { levelLabel } from "../lib/labels.js";

const PAGE = 100;

export function render(root, live, params) {
  let kinds = chosen(params.kind);
  let older = [];
  const filter = h("div", { class: "filters", role: "group", "aria-label": "Kinds of events" }),
    state = h("div", {}),
    list = h("div", { class: "card" });
  const more = h("button", { type: "button", onclick: () => showOlder() }, "Older events");
  root.append(filter, state, list, h("p", { class: "pager" }, more));
  list.hidden = more.hidden = true;
  let newest = [];

  const panel = new Panel(
    state,
    () => ["events", { run: live.run, kind: [...kinds].join(","), limit: PAGE }],
    (response) => {
      newest = response.events;
      showKinds(response.kinds);
      show();
    },
  );

  function show() {
    const last = newest.at(-1)?.id ?? Infinity;
    const all = [...newest, ...older.filter((event) => event.id < last)];
    put(state, !all.length && emptyStatus(live.overview, kinds.size ? "no events of these kinds" : "no events"));
    list.hidden = !all.length;
    more.hidden = newest.length < PAGE;
    renew(list, scroller("Events", eventTable(all)));
  }

  function showKinds(all) {
    const button = (kind) =>
      h(
        "button",
        { type: "button", class: "quiet", "aria-pressed": String(kinds.has(kind)), onclick: () => toggle(kind) },
        oneLine(kind, 30),
      );
    if (filter.childElementCount !== all.length + 1)
      put(filter, h("span", { class: "note" }, "Show only:"), all.map(button));
    else
      [...filter.querySelectorAll("button")].forEach((one, n) =>
        one.setAttribute("aria-pressed", String(kinds.has(all[n]))),
      );
  }

  function toggle(kind) {
    const next = new Set(kinds);
    if (!next.delete(kind)) next.add(kind);
    change({ kind: [...next].join(",") });
  }

  async function showOlder() {
    const before = older.at(-1)?.id ?? newest.at(-1)?.id;
    try {
      const { events } = await get("events", { run: live.run, kind: [...kinds].join(","), before, limit: PAGE });
      older = [...older, ...events];
      show();
      if (events.length < PAGE) more.hidden = true;
    } catch (error) {
      put(state, errorStatus(error));
    }
  }

  panel.load();
  return {
    tick: ({ fresh }) => fresh.events && panel.tick(),
    reset: () => panel.load(),
    change: (next) => {
      kinds = chosen(next.kind);
      older = [];
      panel.load();
    },
    close: () => panel.close(),
  };
}

function chosen(text = "") {
  return new Set(text.split(",").filter(Boolean));
}

function eventTable(events) {
  const row = (event) => {
    const [mark, words, kind] = levelLabel(event.level);
    return h(
      "tr",
      {},
      h("th", { scope: "row", title: utc(event.at) }, clock(event.at)),
      h("td", { class: "number" }, plain(event.step)),
      h("td", { class: kind }, h("span", { "aria-hidden": "true" }, `${mark} `), words),
      h("td", {}, oneLine(event.kind, 30)),
      h("td", {}, oneLine(event.who ?? "", 60)),
      h("td", { class: "words" }, safeText(event.text, 500)),
    );
  };
  const heads = ["when", "step", "level", "kind", "who", "what"].map((text, n) =>
    h("th", { scope: "col", class: n === 1 ? "number" : null }, text),
  );
  return h(
    "table",
    { class: "full" },
    h("caption", {}, `${plain(events.length)} events, newest first, local time`),
    h("thead", {}, h("tr", {}, heads)),
    h("tbody", {}, events.map(row)),
  );
}
