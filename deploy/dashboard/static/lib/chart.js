// Draws one plot with uPlot: lines, dots, bars, bands, level lines, and a mark at each value that is not finite.
//
// A model: {x, ys, series, xTitle, xText, yText, logX, logY, bins, bands, levels, marks, events}
//   series   [{label, kind: line|dots|rings|bars, n or token, dash, opacity, width, hidden, quiet}], one for each of ys
//            (palette.js has colours and dashes); `of`: the number of the curve that it is hidden with
//   bins     {low, high}: edges of bars            bands    [{upper, lower, n, opacity}] by series number
//   levels   [{value, label, include}]: horizontal lines     marks    [x] of points that are not finite
//   events   [{x, text}]: ticks at the top              yRange   [from, to], each a number or null

import uPlot from "../vendor/uPlot.esm.js";
import { plain } from "./format.js";
import { ink, token } from "./palette.js";

const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';

const FLAT = 0.004; // relative range below which a curve is drawn flat, not as noise over the whole height

/** Draw a model into an element. `on`: {zoom(from, to), reset(), hover(index or null)}. */
export function draw(host, model, size, sync, on) {
  const options = {
    ...size,
    pxAlign: 1,
    legend: { show: false },
    padding: [14, 14, 0, 0],
    scales: { x: xScale(model), y: yScale(model) },
    axes: [axis(model.xText, model.xTitle, 0, model.logX), axis(model.yText, "", 1, model.logY)],
    series: [{}, ...model.series.map((one) => series(one, model))],
    bands: (model.bands ?? []).map((band) => ({ series: [band.upper + 1, band.lower + 1], fill: ink(band).colour })),
    cursor: cursor(sync, on),
    hooks: {
      draw: [(plot) => drawMarks(plot, model)],
      setSelect: [(plot) => zoomToSelection(plot, on)],
      setCursor: [(plot) => on.hover(plot.cursor.left < 0 ? null : plot.cursor.idxs.slice(1), plot.cursor.idx)],
    },
  };
  return new uPlot(options, data(model), host);
}

/** The data of a model for uPlot; a log axis keeps positive values only. */
export function data(model) {
  return [
    model.x,
    ...model.ys.map((y) =>
      model.logY ? y.map((value) => (value > 0 ? value : value === undefined ? undefined : null)) : y,
    ),
  ];
}

/** True if a drawing of `a` can show the data of `b` without being rebuilt. */
export function sameShape(a, b) {
  const shape = (model) =>
    JSON.stringify([
      model.series.map((one) => [one.label, one.kind]),
      model.levels,
      model.bins?.low.length,
      model.logX,
      model.xTitle,
    ]);
  return shape(a) === shape(b) && !a.bins;
}

function xScale(model) {
  const range = model.logX ? undefined : (plot, low, high) => (low === high ? [low - 0.5, high + 0.5] : [low, high]);
  return { time: false, distr: model.logX ? 3 : 1, ...(range && { range }) };
}

function yScale(model) {
  const [floor, ceiling] = model.yRange ?? [null, null];
  if (floor !== null && ceiling !== null && floor < ceiling && !(model.logY && floor <= 0))
    return { distr: model.logY ? 3 : 1, range: [floor, ceiling] };
  if (model.logY) return { distr: 3 };
  const zero = model.series.some((one) => one.kind === "bars");
  const range = (plot, low, high) => {
    if (low === null || high === null) return [0, 1];
    const kept = (model.levels ?? []).filter((level) => level.include).map((level) => level.value);
    const [from, to] = [Math.min(low, ...kept, ...(zero ? [0] : [])), Math.max(high, ...kept)];
    if (from === 0 && to === 0) return [0, 1];
    const size = FLAT * Math.max(Math.abs(from), Math.abs(to));
    if (to - from < size) return [(from + to) / 2 - size, (from + to) / 2 + size];
    const room = 0.06 * (to - from);
    return [from >= 0 ? Math.max(0, from - room) : from - room, to + room];
  };
  return { range };
}

function axis(text = plain, title, side, log) {
  const muted = () => token("--muted");
  const decades = log && {
    filter: (plot, splits) => splits.map((value) => (Number.isInteger(Math.log10(value)) ? value : null)),
  };
  const grid = { stroke: () => token("--grid"), width: 1, ...decades };
  const widest = (plot, values) => 14 + 6.6 * Math.max(2, ...(values ?? [""]).map((value) => (value ?? "").length));
  const named = title ? { label: title, labelSize: 16, labelFont: FONT, labelGap: 0 } : {};
  const size = side ? widest : 24;
  return {
    stroke: muted,
    grid,
    ticks: { ...grid, size: 4 },
    font: FONT,
    gap: 4,
    size,
    values: (plot, splits) => splits.map((v) => (v === null ? "" : text(v, 5))),
    ...named,
  };
}

function series(one, model) {
  const { colour, dash } = ink(one);
  const base = {
    label: one.label,
    show: !one.hidden,
    stroke: colour,
    width: one.width ?? 1.6,
    dash,
    points: { show: false },
  };
  if (one.kind === "bars")
    return { ...base, fill: ink({ ...one, opacity: 0.55 }).colour, width: 1, paths: bars(model.bins) };
  if (one.kind === "dots" || one.kind === "rings") {
    const points = {
      show: true,
      size: one.kind === "dots" ? 5 : 6,
      width: 1.3,
      stroke: colour,
      fill: one.kind === "dots" ? colour : "transparent",
    };
    return { ...base, dash: [], paths: () => null, points };
  }
  if (one.quiet) return base;
  return {
    ...base,
    points: {
      show: true,
      size: 4,
      fill: colour,
      filter: (plot, n, show, gaps) => isolatedPoints(plot.data[n], plot.series[n].idxs),
    },
  };
}

const MAX_DOTTED = 12;

/** Indices of points that need a dot: all of a short curve, else points without a neighbour, which no line shows. */
function isolatedPoints(values, [from, to]) {
  if (to - from <= MAX_DOTTED) return null;
  const isolated = [];
  let before = null; // newest index with a value or a gap, skipping other curves' points
  for (let i = from; i <= to; i += 1) {
    if (values[i] === undefined) continue;
    if (values[i] !== null && (before === null || values[before] === null)) {
      let after = i + 1;
      while (after <= to && values[after] === undefined) after += 1;
      if (after > to || values[after] === null) isolated.push(i);
    }
    before = i;
  }
  return isolated;
}

/** Bars from edge to edge, of any width. */
function bars(bins) {
  return (plot, n, from, to) => {
    const stroke = new Path2D();
    const floor = plot.valToPos(plot.scales.y.min, "y", true);
    for (let i = from; i <= Math.min(to, bins.low.length - 1); i += 1) {
      const value = plot.data[n][i];
      if (!(value > 0)) continue;
      const left = plot.valToPos(bins.low[i], "x", true),
        right = plot.valToPos(bins.high[i], "x", true);
      const top = plot.valToPos(value, "y", true);
      stroke.rect(left, top, Math.max(1, right - left - 1), floor - top);
    }
    return { stroke, fill: stroke };
  };
}

function cursor(sync, on) {
  const quiet = (plot, target, handler) => (event) => handler(event);
  return {
    x: true,
    y: false,
    points: { size: 7 },
    drag: { x: Boolean(on.zoom), y: false, setScale: false },
    bind: { dblclick: () => () => on.reset?.() ?? null, mousemove: quiet },
    ...(sync && { sync: { key: sync, setSeries: false, scales: ["x", null] } }),
  };
}

function zoomToSelection(plot, on) {
  const { left, width } = plot.select;
  if (width < 4 || !on.zoom) return;
  const [from, to] = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
  plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  on.zoom(from, to);
}

/** Level lines, marks of values that are not finite, and event ticks, on top of uPlot's drawing. */
function drawMarks(plot, model) {
  const pen = plot.ctx,
    ratio = uPlot.pxRatio;
  const { left, top, width, height } = plot.bbox;
  pen.save();
  pen.font = `${11 * ratio}px system-ui, sans-serif`;
  pen.textAlign = "right";
  pen.textBaseline = "alphabetic";
  for (const level of model.levels ?? []) drawLevel(plot, pen, level, ratio);
  const inside = (x) => x >= plot.scales.x.min && x <= plot.scales.x.max;
  pen.lineWidth = 1.6 * ratio;
  const marks = (model.marks ?? []).filter(inside).map((mark) => plot.valToPos(mark, "x", true));
  const arm = 3.2 * ratio;
  let occupied = -Infinity; // right end of the last mark: overlapping marks are drawn once
  for (const x of marks.sort((a, b) => a - b)) {
    if (x - arm < occupied) continue;
    occupied = x + 2 * arm;
    const y = top + height - 6 * ratio;
    pen.strokeStyle = token("--bad");
    pen.beginPath();
    pen.moveTo(x - arm, y - arm);
    pen.lineTo(x + arm, y + arm);
    pen.moveTo(x - arm, y + arm);
    pen.lineTo(x + arm, y - arm);
    pen.stroke();
  }
  pen.fillStyle = token("--warn");
  for (const event of model.events ?? []) {
    if (!inside(event.x)) continue;
    const x = plot.valToPos(event.x, "x", true);
    pen.beginPath();
    pen.moveTo(x - arm, top - arm * 1.6);
    pen.lineTo(x + arm, top - arm * 1.6);
    pen.lineTo(x, top);
    pen.fill();
  }
  pen.restore();
}

function drawLevel(plot, pen, level, ratio) {
  const { min, max } = plot.scales.y;
  if (!(level.value >= min && level.value <= max)) return;
  const { left, width } = plot.bbox;
  const y = Math.round(plot.valToPos(level.value, "y", true)) + 0.5;
  pen.strokeStyle = pen.fillStyle = token("--level");
  pen.lineWidth = ratio;
  pen.setLineDash([5 * ratio, 4 * ratio]);
  pen.beginPath();
  pen.moveTo(left, y);
  pen.lineTo(left + width, y);
  pen.stroke();
  pen.setLineDash([]);
  const above = y - plot.bbox.top > 16 * ratio;
  pen.fillText(level.label, left + width - 4 * ratio, above ? y - 4 * ratio : y + 12 * ratio);
}
