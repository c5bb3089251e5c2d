// One plot as a card: title, unit, current value, drawing, legend, table of the numbers, downloads as CSV and PNG.

import { data, draw, sameShape } from "./chart.js";
import { h, put, setText } from "./dom.js";
import { Legend } from "./legend.js";
import { ink } from "./palette.js";
import { ariaLabel, eventsAt, readAt, remarks, unitText } from "./plot_text.js";
import { fileName, saveNumbers, savePicture } from "./save.js";
import { status } from "./status.js";
import { numbers } from "./table.js";
import { onTheme } from "./theme.js";
import { YRange } from "./y_range.js";

const HEIGHT = 200;
const REACH_PX = 6; // of the cursor to an event mark
const STEPS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity };
let ids = 0;

export class Plot {
  /**
   * spec: {id, title, unit, note, log: offer a log axis, wide, height}
   * on: {zoom, reset, toggle(name, on)}, csvHref(): URL of all points, if the server has more than the page
   */
  constructor(spec, { sync = null, on = {}, csvHref = null, logY = false, table = false } = {}) {
    Object.assign(this, { spec, sync, on, csvHref, logY, drawn: null, model: null, visible: false });
    this.key = `plot-${(ids += 1)}`;
    this.now = h("output", { class: "now" });
    this.canvas = h("div", {
      class: "canvas",
      tabindex: 0,
      role: "img",
      "aria-label": spec.title,
      onkeydown: (event) => this.onKey(event),
      onblur: () => this.leave(),
    });
    this.legend = new Legend((n, show) => this.drawn?.setSeries(n + 1, { show }));
    this.tip = h("p", { class: "tip", hidden: true });
    this.remark = h("p", { class: "remark", hidden: true });
    this.state = h("div", { class: "state" });
    this.table = h("div", {
      class: "table",
      tabindex: 0,
      role: "region",
      "aria-label": `${spec.title}: numbers`,
      hidden: true,
    });
    this.announcement = h("span", { class: "aside", "aria-live": "polite" });
    this.yRange = new YRange(spec.title, () => this.redraw());
    this.tools = h("div", { class: "tools" }, this.buttons());
    const note = spec.note && h("p", { class: "note" }, spec.note);
    const head = h(
      "header",
      {},
      h("h3", { id: this.key }, spec.title),
      h("span", { class: "unit" }, unitText(spec.unit)),
      this.now,
    );
    this.element = h(
      "section",
      { class: `card plot${spec.wide ? " wide" : ""}`, "aria-labelledby": this.key },
      head,
      note,
      this.state,
      this.tip,
      this.canvas,
      this.table,
      this.legend.element,
      this.remark,
      this.announcement,
      this.tools,
    );
    this.show(status("loading", "Loading …"));
    if (table) this.showTable(true);
    this.resizeObserver = new ResizeObserver(() => this.fit());
    this.resizeObserver.observe(this.canvas);
    this.visibility = new IntersectionObserver(([entry]) => this.setVisible(entry.isIntersecting), { rootMargin: "200px" });
    this.visibility.observe(this.element);
    this.catchUp = () => this.outdated && this.model && this.paint();
    addEventListener("beforeprint", this.catchUp); // a printed page shows every plot
    this.element.addEventListener("fullscreenchange", () => this.redraw());
    this.endTheme = onTheme(() => this.redraw());
  }

  buttons() {
    const button = (text, label, onclick, pressed = null) =>
      h(
        "button",
        {
          type: "button",
          class: "quiet",
          "aria-label": `${this.spec.title}: ${label}`,
          "aria-pressed": pressed,
          onclick,
        },
        text,
      );
    this.logButton = this.spec.log ? button("log", "log axis", () => this.setLog(!this.logY), String(this.logY)) : null;
    this.tableButton = button("table", "show numbers as a table", () => this.showTable(this.table.hidden), "false");
    return [
      this.logButton,
      this.tableButton,
      button("CSV", "download CSV", () => this.saveCsv()),
      button("PNG", "download PNG", () => this.savePng()),
      this.yRange.element,
      button("full screen", "full screen", () => this.fullScreen()),
    ];
  }

  /** Show a paragraph instead of the drawing; null shows the drawing. */
  show(paragraph) {
    put(this.state, paragraph);
    for (const part of [this.canvas, this.legend.element, this.tools]) part.hidden = Boolean(paragraph);
    if (paragraph) setText(this.now, "");
  }

  /** Show a model as in chart.js, with `values` (text of the newest value of each series) and `now`. */
  set(model) {
    const same = this.model && sameShape(this.model, model);
    this.model = model;
    this.show(null);
    for (const [n, one] of model.series.entries()) one.hidden = this.legend.hides(one, n);
    this.setNow(model.now ?? "");
    this.outdated = true;
    if (!same) this.discard();
    this.legend.draw(model, same);
    this.describe();
    if (this.visible) this.paint();
    if (!this.table.hidden) this.fillTable();
  }

  setVisible(visible) {
    this.visible = visible;
    if (visible) this.catchUp();
  }

  paint() {
    const width = this.canvas.clientWidth;
    if (!width || this.canvas.hidden) return;
    this.outdated = false;
    const model = { ...this.model, logY: this.logY, yRange: this.yRange.value };
    if (this.drawn) {
      Object.assign(this.live, model);
      this.drawn.setData(data(this.live));
      return;
    }
    this.live = model;
    const on = { ...this.on, hover: (idxs, idx) => this.hover(idxs, idx) };
    this.drawn = draw(this.canvas, this.live, { width, height: this.height() }, this.sync, on);
  }

  /** Height of the drawing, px: what a full screen leaves, or as the spec says. */
  height() {
    if (document.fullscreenElement !== this.element) return this.spec.height ?? HEIGHT;
    return Math.max(HEIGHT, innerHeight - (this.element.scrollHeight - this.canvas.clientHeight) - 16);
  }

  fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.element.requestFullscreen().catch(() => {});
  }

  fit() {
    const width = this.canvas.clientWidth;
    if (!width) return;
    if (!this.drawn) this.visible && this.model && this.paint();
    else if (width !== this.drawn.width) this.drawn.setSize({ width, height: this.drawn.height });
  }

  /** Rebuild the drawing: theme, log axis or the set of series changed. */
  redraw() {
    if (!this.model) return;
    this.discard();
    this.legend.draw(this.model, false);
    this.outdated = true;
    if (this.visible) this.paint();
  }

  discard() {
    this.drawn?.destroy();
    this.drawn = null;
  }

  setNow(text) {
    setText(this.now, text);
  }

  setLog(on) {
    this.logY = on;
    this.logButton.setAttribute("aria-pressed", String(on));
    this.on.toggle?.("log", this.spec.id, on);
    this.describe();
    this.redraw();
  }

  showTable(on) {
    this.table.hidden = !on;
    this.tableButton.setAttribute("aria-pressed", String(on));
    this.on.toggle?.("table", this.spec.id, on);
    if (on && this.model) this.fillTable();
  }

  fillTable() {
    put(this.table, numbers(this.columns(), this.model, this.spec.title));
  }

  columns() {
    return [this.model.xTitle || "x", ...this.model.series.map((one) => one.label)];
  }

  /** The cursor is on a point of this plot, or of one that shares its cursor. */
  hover(idxs, idx) {
    const { x, now = "" } = this.model;
    if (!idxs || idx === null || idx === undefined || x[idx] === undefined) {
      this.legend.setValues(this.model.values);
      this.setNow(now);
      this.tip.hidden = true;
      return;
    }
    this.showTip();
    const { texts, position, spoken } = readAt(this.model, idxs, idx);
    this.legend.setValues(texts);
    this.cursorText = spoken;
    this.setNow(position);
  }

  /** The text of an event whose mark is under the cursor. */
  showTip() {
    const { left } = this.drawn.cursor;
    const at = (px) => this.drawn.posToVal(px, "x");
    const texts = eventsAt(this.model, at(left), Math.abs(at(left + REACH_PX) - at(left)));
    this.tip.hidden = !texts.length;
    setText(this.tip, texts.map((text) => `▼ ${text}`).join(" "));
  }

  /** Arrow keys move the cursor from point to point; Home and End jump. */
  onKey(event) {
    if (event.key === "Escape") return this.leave();
    const by = STEPS[event.key];
    if (by === undefined || !this.drawn || event.altKey || event.ctrlKey || event.metaKey) return undefined;
    event.preventDefault();
    const points = this.model.x.length;
    this.at = Math.min(points - 1, Math.max(0, (this.at ?? (by < 0 ? points : -1)) + by));
    this.drawn.setCursor({ left: this.drawn.valToPos(this.model.x[this.at], "x"), top: 10 });
    setText(this.announcement, [this.cursorText, this.tip.hidden ? "" : this.tip.textContent].filter(Boolean).join(" "));
    return undefined;
  }

  leave() {
    this.at = null;
    setText(this.announcement, "");
    this.drawn?.setCursor({ left: -10, top: -10 });
  }

  describe() {
    const remark = remarks(this.model, this.logY);
    this.remark.hidden = !remark;
    setText(this.remark, remark);
    this.canvas.setAttribute("aria-label", ariaLabel(this.spec, this.model));
  }

  saveCsv() {
    if (this.csvHref) h("a", { href: this.csvHref(), download: fileName(this.spec.title, "csv") }).click();
    else saveNumbers(this.spec.title, this.columns(), this.model);
  }

  savePng() {
    const canvas = this.canvas.querySelector("canvas");
    const shown = this.model.series.filter((one) => !one.hidden && !one.quiet);
    const legend = shown.map((one) => ({ label: one.label, ...ink(one) }));
    const title = `${this.spec.title} (${unitText(this.spec.unit)})`;
    if (canvas) savePicture(fileName(this.spec.title, "png"), canvas, title, legend);
  }

  close() {
    this.discard();
    this.resizeObserver.disconnect();
    this.visibility.disconnect();
    removeEventListener("beforeprint", this.catchUp);
    this.endTheme();
  }
}
