// A group of curve plots over step or time that are loaded, updated and zoomed together and share one cursor.
// A spec has an id and one of these:
//   figure    name of a registered figure: title, unit, axis, note and aim come from the registry
//   figures   names, or {name, label, n, dash, width}, of several figures under a `title` and `note` of their own
// and optionally wide, lead, none, levels(overview), band: {upper, lower}, or other values than the registry's.
// A name with a part in capitals stands for the curves of all processes, prompts or reasons.

import { address, get } from "./api.js";
import { align, last } from "./align.js";
import { Curves } from "./curves.js";
import { h, put } from "./dom.js";
import { aimLevels, describe, filledIn, heading, isPattern } from "./figures.js";
import { duration, number, plain } from "./format.js";
import { Plot } from "./plot.js";
import { valueText } from "./plot_text.js";
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
    this.bar = h("div", { class: "toolbar" });
    this.setParams(params);
  }

  setParams(params) {
    this.range = { x: params.x === "time" ? "time" : "step", from: finite(params.from), to: finite(params.to) };
    this.flags = { log: flags(params.log), table: flags(params.table) };
    this.curves?.close();
    this.curves = new Curves(this.live.run, this.range);
    this.drawBar();
  }

  drawBar() {
    const { x, from, to } = this.range;
    const choose = (value, text) =>
      h(
        "button",
        {
          type: "button",
          class: "quiet",
          "aria-pressed": String(x === value),
          onclick: () => change({ x: value, from: "", to: "" }),
        },
        text,
      );
    const text = (value) => (x === "time" ? duration(value) : plain(value));
    const showAll = h(
      "button",
      { type: "button", class: "quiet", onclick: () => change({ from: "", to: "" }) },
      "show all",
    );
    const zoom =
      from !== undefined || to !== undefined
        ? [h("span", {}, `${x} ${text(from ?? 0)} to ${to === undefined ? "now" : text(to)}`), showAll]
        : h("span", { class: "hint" }, "Drag across a plot to zoom in.");
    put(
      this.bar,
      h(
        "span",
        { class: "group", role: "group", "aria-label": "Horizontal axis" },
        choose("step", "by step"),
        choose("time", "by time"),
      ),
      zoom,
    );
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
    const before = JSON.stringify(this.range);
    const next = JSON.stringify({
      x: params.x === "time" ? "time" : "step",
      from: finite(params.from),
      to: finite(params.to),
    });
    if (before === next) return;
    this.setParams(params);
    await this.load();
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
    this.events = events.filter((event) => event.level !== "info");
  }

  show() {
    for (const { spec, plot } of this.cards) {
      const model = this.model(spec);
      if (model) plot.set(model);
      else plot.show(emptyStatus(this.live.overview, spec.none ?? `no readings of ${spec.title}`));
    }
  }

  /** The plot model of a card, or null if no curve has a point. */
  model(spec) {
    const curves = this.curvesOf(spec)
      .map((curve, n) => ({ n, ...curve, ...this.curves.byName.get(curve.name), label: oneLine(curve.label, 60) }))
      .filter((curve) => curve.x?.length)
      .map(drawable)
      .filter((curve) => curve.x.length);
    if (!curves.length) return null;
    const { x, ys } = align(curves);
    const text = valueText(spec.unit);
    const at = (name) => curves.findIndex((curve) => curve.name === name);
    const band =
      spec.band && at(spec.band.upper) >= 0 && at(spec.band.lower) >= 0
        ? [{ upper: at(spec.band.upper), lower: at(spec.band.lower), n: spec.band.n ?? 0, opacity: 0.16 }]
        : [];
    return {
      x,
      ys,
      series: curves.map(({ label, n, dash, width, opacity }) => ({
        label,
        kind: "line",
        n,
        dash: curves.length === 1 ? [] : dash,
        width,
        opacity,
      })),
      bands: band,
      levels: [
        ...(spec.figure ? aimLevels(spec.figure) : []),
        ...(this.live.overview ? (spec.levels?.(this.live.overview) ?? []) : []),
      ],
      marks: [...new Set(curves.flatMap((curve) => curve.gaps))],
      events: this.events
        .map((event) => ({ x: this.range.x === "time" ? event.at - this.curves.began : event.step }))
        .filter((event) => Number.isFinite(event.x)),
      xTitle: this.range.x,
      xText: this.range.x === "time" ? duration : plain,
      yText: text,
      values: curves.map((curve) => text(curve.last ?? last(curve.y))),
      now: curves.length === 1 || spec.lead ? number(curves[0].last ?? last(curves[0].y), spec.unit) : "",
      remark: curves.some((curve) => curve.decimated) ? "Decimated: each interval shows its extreme values." : "",
    };
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

/**
 * The curve with the points that a line is drawn through, and `gaps`: the x of values that are not finite. A curve
 * that is computed at some steps only (`sparse`) has no gaps. In a decimated curve a single null is narrower than a
 * pixel: it is marked, but the line is not broken.
 */
function drawable(curve) {
  const { x, y, decimated, sparse } = curve;
  const isolated = (i) => y[i - 1] !== null && y[i + 1] !== null;
  const kept = x.map((_, i) => i).filter((i) => y[i] !== null || !(sparse || (decimated && isolated(i))));
  const gaps = sparse ? [] : x.filter((_, i) => y[i] === null);
  return { ...curve, gaps, x: kept.map((i) => x[i]), y: kept.map((i) => y[i]) };
}

function finite(text) {
  const value = Number.parseFloat(text);
  return Number.isFinite(value) ? value : undefined;
}

function round(value) {
  return Number(value.toPrecision(6));
}
