// Single-key shortcuts and the dialog that lists them. They can be switched off, since some input tools type single letters.

import { h } from "./dom.js";

const KEY = "tributary.shortcuts";

export class Keys {
  /** views: [{name, title}] in the order of the keys 1, 2, ...; actions: {key: [description, function]}. */
  constructor(views, actions, open) {
    Object.assign(this, { views, actions, open });
    this.dialog = this.build();
    document.body.append(this.dialog);
    document.addEventListener("keydown", (event) => this.pressed(event));
  }

  on() {
    return localStorage.getItem(KEY) !== "off";
  }

  build() {
    const row = (key, description) => h("tr", {}, h("th", { scope: "row" }, h("kbd", {}, key)), h("td", {}, description));
    const views = this.views.map((view, n) => row(String(n + 1), view.title));
    const actions = Object.entries(this.actions).map(([key, [description]]) => row(key, description));
    const inPlot = [
      row("← →", "in a plot: previous or next point"),
      row("Home End", "in a plot: first and newest point"),
      row("Tab", "to the next control"),
    ];
    const box = h("input", {
      type: "checkbox",
      id: "shortcuts",
      checked: this.on(),
      onchange: (event) => localStorage.setItem(KEY, event.target.checked ? "on" : "off"),
    });
    const close = h("button", { type: "button", onclick: () => this.dialog.close() }, "Close");
    return h(
      "dialog",
      { class: "card", "aria-labelledby": "keys-title" },
      h("h2", { id: "keys-title" }, "Keys"),
      h("table", {}, h("tbody", {}, views, actions, row("?", "this list"), inPlot)),
      h("p", {}, box, h("label", { for: "shortcuts" }, " use single-key shortcuts")),
      close,
    );
  }

  pressed(event) {
    if (
      event.ctrlKey ||
      event.metaKey ||
      event.altKey ||
      event.target.closest("input, select, textarea, [contenteditable]")
    )
      return;
    if (event.key === "?") return this.dialog.showModal();
    if (!this.on() || this.dialog.open) return;
    const view = this.views[Number(event.key) - 1];
    if (view) this.open(view.name);
    else this.actions[event.key]?.[1]();
  }
}
