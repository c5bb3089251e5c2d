// The actors view: sampling speed, adapter version, behaviours and waits of each actor.

import { Board } from "../lib/board.js";
import { h, put, renew, scroller } from "../lib/dom.js";
import { describe } from "../lib/figures.js";
import { clock, duration, number, plain } from "../lib/format.js";
import { Panel } from "../lib/panel.js";
import { emptyStatus } from "../lib/status.js";
import { table } from "../lib/table.js";
import { oneLine, safeText } from "../lib/text.js";
import { composite } from "../lib/composite.js";
import { stateLabel } from "../lib/labels.js";

const SPECS = [
  { id: "tokens", figure: "actor.NAME.tokens_per_s" },
  { id: "trajectories", figure: "actor.NAME.trajectories_per_s" },
  {
    id: "versions",
    title: "Adapter versions",
    note: "The version that the learner published, and the one that each actor uses.",
    figures: [{ name: "learner.version", label: "published" }, "actor.NAME.version"],
  },
  { id: "behind", figure: "actor.NAME.behind" },
  { id: "busy", figure: "actor.NAME.busy" },
  { id: "waits", figure: "actor.NAME.waits" },
  {
    id: "canary",
    figure: "actor.NAME.canary_difference",
    levels: ({ limits }) =>
      limits.canary_tolerance ? [{ value: limits.canary_tolerance, label: "tolerance" }] : [],
  },
  { id: "behaviours", title: "Behaviours among fresh rows", figure: "learner.behaviours.NAME" },
];

export function render(root, live, params) {
  const board = new Board(live, params);
  const state = h("div", {}),
    current = h("div", {}),
    cards = h("div", { class: "cards" });
  root.append(state, current, h("h2", {}, "Over time"), board.bar, cards);
  for (const spec of SPECS) board.add(cards, spec);
  const panel = new Panel(
    state,
    () => ["actors", { run: live.run }],
    (response) => {
      put(state, !response.actors.length && emptyStatus(live.overview, "no actor reports"));
      renew(
        current,
        response.actors.length ? actorTable(response) : null,
        h("div", { class: "cards pair" }, behaviours(response.behaviours ?? []), versions(response.versions ?? [])),
      );
    },
  );
  return composite([panel, board]);
}

function actorTable({ actors, newest_version: newest }) {
  const row = (one) => {
    const [mark, text, kind] = stateLabel(one.state);
    return [
      oneLine(one.name, 40),
      h("span", { class: kind }, h("span", { "aria-hidden": "true" }, `${mark} `), text),
      number(one.tokens_per_s),
      number(one.trajectories_per_s),
      `${plain(one.version)} (${one.behind > 0 ? `${plain(one.behind)} behind` : "newest"})`,
      number(one.busy, "share"),
      plain(one.versions_skipped),
      plain(one.restarts),
      number(one.canary_difference_max),
      plain(one.canaries_exceeded),
      duration(one.seconds),
      one.waiting_for ? safeText(one.waiting_for, 200) : "nothing",
    ];
  };
  const columns = [
    "actor",
    "state",
    describe("actor.NAME.tokens_per_s").title,
    describe("actor.NAME.trajectories_per_s").title,
    describe("actor.NAME.version").title,
    describe("actor.NAME.busy").title,
    describe("actor.NAME.versions_skipped").title,
    "restarts",
    `${describe("actor.NAME.canary_difference").title}, ${describe("actor.NAME.canary_difference").unit}`,
    describe("actor.NAME.canaries_exceeded").title,
    "alive for",
    "waits for",
  ];
  const kinds = columns.map((name, n) => n > 1 && n < 11);
  const caption = `The newest version is ${plain(newest)}. An actor takes the newest version as soon as its engine has a free slot, and skips those between.`;
  return h("section", { class: "card" }, scroller("Actors", table(columns, actors.map(row), caption, kinds)));
}

function behaviours(list) {
  const rows = list.map((one) => [safeText(one.name, 60), number(one.configured, "share"), number(one.seen, "share")]);
  return h(
    "section",
    { class: "card" },
    h("h3", {}, "Behaviour mix"),
    rows.length ? table(["behaviour", "configured", "observed"], rows) : h("p", { class: "note" }, "Unknown before the first snapshot."),
  );
}

function versions(list) {
  const rows = list.slice(0, 12).map((one) => [plain(one.version), plain(one.step), clock(one.at)]);
  return h(
    "section",
    { class: "card" },
    h("h3", {}, "Newest adapter versions"),
    rows.length ? table(["version", "step", "published"], rows) : h("p", { class: "note" }, "No version has been published yet."),
  );
}
