// A group of curve plots over step or time that are loaded, updated and zoomed together and share one cursor.
// A spec has an id and one of these:
//   figure    name of a registered figure: title, unit, axis, note and aim come from the registry
//   figures   names, or {name, label, n, dash, width}, of several figures under a `title` and `note` of their own
// and optionally wide, lead, none, levels(overview), band: {upper, lower}, or other values than the registry's.
// A name with a part in capitals stands for the curves of all processes, prompts or reasons.

import { address, get } from "./api.js";
import { AXES, axisButtons, axisOf, smoothed, smoothingOf, smoothingSelect } from "./axes.js";
import { constantText, curveModel } from "./curve_model.js";
import { Curves } from "./curves.js";
import { h, put } from "./dom.js";
import { describe, filledIn, heading, isPattern } from "./figures.js";
import { Plot } from "./plot.js";
import { change, flags, remember } from "./state.js";
import { errorStatus, emptyStatus } from "./status.js";
import { oneLine } from "./text.js";

const UPDATE_INTERVAL_MS = 2000;
const CATALOG_INTERVAL_MS = 10000;
const MARKED = "restart,skipped,quarantine,alert";

export class Board {
  constructor(live, params) {
    this.live = live;
    this.cards = [];
    this.catalog = [];
    this.events = [];
    this.loadedAt = this.catalogAt = -Infinity;
    this.toolbar = h("div", { class: "toolbar" });
    this.constants = h("p", { class: "constants note", hidden: true });
    this.bar = h("div", {}, this.toolbar, this.constants);
    this.setParams(params);
  }

  setParams(params) {
    this.range = rangeOf(params);
    this.flags = { log: flags(params.log), table: flags(params.table) };
    this.setLook(params);
    this.curves?.close();
    this.curves = new Curves(this.live.run, this.range);
    this.drawBar();
  }

  /** What changes without new data: the smoothing, and whether the plots of constants are shown. */
  setLook(params) {
    this.weight = smoothingOf(params);
    this.showsConstants = params.constants === "shown";
  }

  drawBar() {
    const { x, from, to } = this.range;
    const text = AXES[x].value;
    const showAll = h(
      "button",
      { type: "button", class: "quiet", onclick: () => change({ from: "", to: "" }) },
      "show all",
    );
    const zoom =
      from !== undefined || to !== undefined
        ? [h("span", {}, `${x} ${text(from ?? 0)} to ${to === undefined ? "now" : text(to)}`), showAll]
        : h("span", { class: "hint" }, "Drag across a plot to zoom in.");
    const marks = this.events.length ? h("span", { class: "hint" }, "▼ an alert, a restart or a loss: point at it.") : null;
    put(this.toolbar, axisButtons(x), smoothingSelect(this.weight), zoom, marks);
  }

  /** Add a card to `host`. */
  add(host, outline) {
    const spec = completed(outline);
    const { log, table } = this.flags;
    const on = {
      zoom: (from, to) => change({ from: round(from), to: round(to) }),
      reset: () => change({ from: "", to: "" }),
      toggle: (flag, id, set) => remember(flag, id, set !== (flag === "log" && spec.logFirst)),
    };
    const csvHref = () => address("curves.csv", { run: this.live.run, names: this.names(spec).slice(0, 24).join(",") });
    const plot = new Plot(spec, {
      sync: "board",
      on,
      csvHref,
      logY: log.has(spec.id) !== spec.logFirst,
      table: table.has(spec.id),
    });
    this.cards.push({ spec, plot });
    host.append(plot.element);
  }

  /** The curves of a spec: {name, label, sparse, ...}. */
  curvesOf(spec) {
    return spec.curves.flatMap((curve) => {
      const { title, sparse } = describe(curve.name);
      if (!isPattern(curve.name)) return [{ label: title, sparse, ...curve }];
      return this.catalog
        .map(({ name }) => ({ ...curve, name, label: filledIn(curve.name, name), sparse }))
        .filter(({ label }) => label !== null);
    });
  }

  names(spec) {
    return this.curvesOf(spec).map((curve) => curve.name);
  }

  allNames() {
    return [...new Set(this.cards.flatMap(({ spec }) => this.names(spec)))];
  }

  /** Load everything. */
  async load() {
    const curves = this.curves;
    await this.guarded(async () => {
      await this.loadCatalog();
      await curves.load(this.allNames());
      await this.loadEvents();
      if (curves === this.curves) this.show();
    }, curves);
  }

  /** New rows were recorded: update, with at most one request at a time and one every 2 s. */
  async tick() {
    const now = performance.now();
    if (this.busy || now - this.loadedAt < UPDATE_INTERVAL_MS) return;
    this.busy = true;
    const curves = this.curves;
    await this.guarded(async () => {
      if (now - this.catalogAt > CATALOG_INTERVAL_MS) {
        await this.loadCatalog();
        await this.loadEvents();
      }
      await curves.follow(this.allNames());
      if (curves === this.curves) this.show();
    }, curves);
    this.loadedAt = performance.now();
    this.busy = false;
  }

  /** The address changed: reload if the axis or the range did; log axes and tables are already up to date. */
  async change(params) {
    const look = [this.weight, this.showsConstants].join();
    if (JSON.stringify(this.range) !== JSON.stringify(rangeOf(params))) {
      this.setParams(params);
      return this.load();
    }
    this.setLook(params);
    if (look !== [this.weight, this.showsConstants].join()) {
      this.drawBar();
      this.show();
    }
    return undefined;
  }

  async guarded(work, curves) {
    try {
      await work();
    } catch (error) {
      if (curves !== this.curves || error.name === "AbortError") return;
      for (const { plot } of this.cards) if (!plot.model) plot.show(errorStatus(error));
    }
  }

  async loadCatalog() {
    this.catalog = (await get("catalog", { run: this.live.run }, this.curves.abort.signal)).curves;
    this.catalogAt = performance.now();
  }

  async loadEvents() {
    const { events } = await get("events", { run: this.live.run, kind: MARKED, limit: 200 }, this.curves.abort.signal);
    const had = this.events.length;
    this.events = events.filter((event) => event.level !== "info");
    if (had !== this.events.length) this.drawBar();
  }

  show() {
    const folded = [];
    for (const { spec, plot } of this.cards) {
      const curves = this.loaded(spec);
      const model = curveModel(spec, curves, this.context());
      const constant = model && constantText(spec, curves);
      if (constant) folded.push(constant);
      plot.element.hidden = Boolean(constant) && !this.showsConstants;
      if (model) plot.set(smoothed(model, this.weight));
      else plot.show(emptyStatus(this.live.overview, spec.none ?? `no readings of ${spec.title}`));
    }
    this.showFolded(folded);
  }

  /** The curves of a spec with their points. */
  loaded(spec) {
    return this.curvesOf(spec).map((curve, n) => ({ n, ...curve, ...this.curves.byName.get(curve.name), label: oneLine(curve.label, 60) }));
  }

  context() {
    const { x } = this.range;
    const marks = this.events.map((event) => ({ x: this.placeOf(event), text: `${event.who}: ${event.text}` }));
    return { x, overview: this.live.overview, events: marks.filter((mark) => Number.isFinite(mark.x)) };
  }

  /** Where an event stands on the axis; events have no number of samples or tokens. */
  placeOf(event) {
    if (this.range.x === "time") return event.at - this.curves.began;
    return this.range.x === "step" ? event.step : NaN;
  }

  /** Plots of constants in one line. */
  showFolded(folded) {
    this.constants.hidden = !folded.length;
    const text = this.showsConstants ? "fold their plots" : "show their plots";
    const toggle = h(
      "button",
      { type: "button", class: "quiet", onclick: () => change({ constants: this.showsConstants ? "" : "shown" }) },
      text,
    );
    const key = [text, ...folded].join("|");
    if (this.constants.dataset.key === key) return;
    this.constants.dataset.key = key;
    put(this.constants, `Constant: ${folded.join(" · ")}. `, toggle);
  }

  close() {
    this.curves.close();
    for (const { plot } of this.cards) plot.close();
  }
}

/**
 * The spec with all that the registry says. A single figure starts on its own axis; several figures start on a linear
 * one, where a curve at 0 is visible, and take unit and the offer of a log axis from the first.
 */
function completed(spec) {
  const curves = (spec.figures ?? [spec.figure]).map((one) => (typeof one === "string" ? { name: one } : one));
  const { unit, log, meaning } = describe(curves[0].name);
  const single = spec.figure ? { title: heading(spec.figure), note: meaning, logFirst: log } : { logFirst: false };
  return { unit, log, ...single, ...spec, curves };
}

function rangeOf(params) {
  return { x: axisOf(params), from: finite(params.from), to: finite(params.to) };
}

function finite(text) {
  const value = Number.parseFloat(text);
  return Number.isFinite(value) ? value : undefined;
}

function round(value) {
  return Number(value.toPrecision(6));
}
