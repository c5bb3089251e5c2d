// Plots of curves over step or time that belong together: loaded, kept up to date, zoomed and read with one cursor.
// A spec: {id, title, unit, note, log, logFirst, wide, sparse, curves: [{name, label, n}] or match: /of names/ with
// label(entry), levels(overview), band: {upper, lower}}

import { address, get } from "./api.js";
import { align, last } from "./align.js";
import { Curves } from "./curves.js";
import { h, put } from "./dom.js";
import { duration, number, plain } from "./format.js";
import { Plot } from "./plot.js";
import { texts } from "./plot_words.js";
import { change, flags, remember } from "./state.js";
import { failure, nothingYet } from "./status.js";
import { plainly } from "./text.js";

const EVERY_MS = 2000;
const CATALOG_EVERY_MS = 10000;
const MARKED = "restart,skipped,quarantine,alert";

export class Board {
  constructor(live, params) {
    this.live = live;
    this.cards = [];
    this.catalog = [];
    this.events = [];
    this.loadedAt = this.catalogAt = -Infinity;
    this.bar = h("div", { class: "toolbar" });
    this.take(params);
  }

  take(params) {
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
    const whole = h(
      "button",
      { type: "button", class: "quiet", onclick: () => change({ from: "", to: "" }) },
      "show all",
    );
    const zoom =
      from !== undefined || to !== undefined
        ? [h("span", {}, `${x} ${text(from ?? 0)} to ${to === undefined ? "now" : text(to)}`), whole]
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

  /** A card in `host`. */
  add(host, spec) {
    const { log, table } = this.flags;
    const on = {
      zoom: (from, to) => change({ from: round(from), to: round(to) }),
      reset: () => change({ from: "", to: "" }),
      toggle: (flag, id, set) => remember(flag, id, set !== Boolean(flag === "log" && spec.logFirst)),
    };
    const csvHref = () => address("curves.csv", { run: this.live.run, names: this.names(spec).slice(0, 24).join(",") });
    const plot = new Plot(spec, {
      sync: "board",
      on,
      csvHref,
      logY: log.has(spec.id) !== Boolean(spec.logFirst),
      table: table.has(spec.id),
    });
    this.cards.push({ spec, plot });
    host.append(plot.element);
  }

  names(spec) {
    if (spec.match) return this.catalog.filter((entry) => spec.match.test(entry.name)).map((entry) => entry.name);
    return spec.curves.map((curve) => curve.name);
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

  /** Something new was recorded. At most one request at a time, and not oftener than every 2 s. */
  async tick() {
    const now = performance.now();
    if (this.busy || now - this.loadedAt < EVERY_MS) return;
    this.busy = true;
    const curves = this.curves;
    await this.guarded(async () => {
      if (now - this.catalogAt > CATALOG_EVERY_MS) {
        await this.loadCatalog();
        await this.loadEvents();
      }
      await curves.follow(this.allNames());
      if (curves === this.curves) this.show();
    }, curves);
    this.loadedAt = performance.now();
    this.busy = false;
  }

  /** The address changed: another axis or stretch asks anew; log axes and tables changed by themselves. */
  async change(params) {
    const before = JSON.stringify(this.range);
    const next = JSON.stringify({
      x: params.x === "time" ? "time" : "step",
      from: finite(params.from),
      to: finite(params.to),
    });
    if (before === next) return;
    this.take(params);
    await this.load();
  }

  async guarded(work, curves) {
    try {
      await work();
    } catch (error) {
      if (curves !== this.curves || error.name === "AbortError") return;
      for (const { plot } of this.cards) if (!plot.model) plot.show(failure(error));
    }
  }

  async loadCatalog() {
    this.catalog = (await get("catalog", { run: this.live.run }, this.curves.ending.signal)).curves;
    this.catalogAt = performance.now();
  }

  async loadEvents() {
    const { events } = await get("events", { run: this.live.run, kind: MARKED, limit: 200 }, this.curves.ending.signal);
    this.events = events.filter((event) => event.level !== "info");
  }

  show() {
    for (const { spec, plot } of this.cards) {
      const model = this.model(spec);
      if (model) plot.set(model);
      else plot.show(nothingYet(this.live.overview, spec.none ?? `no readings of ${spec.title}`));
    }
  }

  /** What a card shows, or null where no curve has a point. */
  model(spec) {
    const entries = new Map(this.catalog.map((entry) => [entry.name, entry]));
    const wanted = spec.match
      ? this.names(spec).map((name) => ({ name, label: spec.label(entries.get(name)) }))
      : spec.curves;
    const there = wanted
      .map((curve, n) => ({ n, ...curve, ...this.curves.known.get(curve.name), label: plainly(curve.label, 60) }))
      .filter((curve) => curve.x?.length)
      .map((curve) => settle(spec, curve))
      .filter((curve) => curve.x.length);
    if (!there.length) return null;
    const { x, ys } = align(there);
    const text = texts(spec.unit);
    const at = (name) => there.findIndex((curve) => curve.name === name);
    const band =
      spec.band && at(spec.band.upper) >= 0 && at(spec.band.lower) >= 0
        ? [{ upper: at(spec.band.upper), lower: at(spec.band.lower), n: spec.band.n ?? 0, opacity: 0.16 }]
        : [];
    return {
      x,
      ys,
      series: there.map(({ label, n, dash, width, opacity }) => ({
        label,
        kind: "line",
        n,
        dash: there.length === 1 ? [] : dash,
        width,
        opacity,
      })),
      bands: band,
      levels: this.live.overview ? (spec.levels?.(this.live.overview) ?? []) : [],
      marks: [...new Set(there.flatMap((curve) => curve.gone))],
      moments: this.events
        .map((event) => ({ x: this.range.x === "time" ? event.at - this.curves.began : event.step }))
        .filter((moment) => Number.isFinite(moment.x)),
      xTitle: this.range.x,
      xText: this.range.x === "time" ? duration : plain,
      yText: text,
      values: there.map((curve) => text(curve.last ?? last(curve.y))),
      now: there.length === 1 || spec.lead ? number(there[0].last ?? last(there[0].y), spec.unit) : "",
      remark: there.some((curve) => curve.decimated) ? "Thinned out: the least and the largest of each stretch." : "",
    };
  }

  close() {
    this.curves.close();
    for (const { plot } of this.cards) plot.close();
  }
}

/**
 * The points that a line is drawn through, and `gone`: the x of those that are not finite. A figure that is only worked out
 * now and then (`sparse`) has none. In a thinned out curve a single null is narrower than a pixel: a mark, and no gap.
 */
function settle(spec, curve) {
  const { x, y, decimated } = curve;
  const alone = (i) => y[i - 1] !== null && y[i + 1] !== null;
  const kept = x.map((_, i) => i).filter((i) => y[i] !== null || !(spec.sparse || (decimated && alone(i))));
  const gone = spec.sparse ? [] : x.filter((_, i) => y[i] === null);
  return { ...curve, gone, x: kept.map((i) => x[i]), y: kept.map((i) => y[i]) };
}

function finite(text) {
  const value = Number.parseFloat(text);
  return Number.isFinite(value) ? value : undefined;
}

function round(value) {
  return Number(value.toPrecision(6));
}
