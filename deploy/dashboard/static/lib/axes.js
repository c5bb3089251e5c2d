// The horizontal axes that curves can have, and the smoothing of curves: both are parameters of the address.

import { h } from "./dom.js";
import { duration, plain } from "./format.js";
import { change } from "./state.js";

export const AXES = {
  step: { text: "by step", title: "step", value: plain },
  samples: { text: "by samples", title: "samples", value: plain },
  tokens: { text: "by tokens", title: "tokens", value: plain },
  time: { text: "by time", title: "time", value: duration },
};
const SMOOTHING = { 0: "off", 0.6: "light", 0.9: "medium", 0.97: "strong" };

/** The axis that the address names, or steps. */
export function axisOf(params) {
  return Object.hasOwn(AXES, params.x ?? "") ? params.x : "step";
}

/** The weight of the smoothing that the address names; 0 is none. */
export function smoothingOf(params) {
  return Object.hasOwn(SMOOTHING, params.smooth ?? "") ? Number(params.smooth) : 0;
}

/** Buttons that choose the axis. */
export function axisButtons(x) {
  const button = ([value, { text }]) =>
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
  return h(
    "span",
    { class: "group", role: "group", "aria-label": "Horizontal axis" },
    Object.entries(AXES).map(button),
  );
}

/** A choice of smoothing. */
export function smoothingSelect(weight) {
  const select = h(
    "select",
    { onchange: () => change({ smooth: select.value === "0" ? "" : select.value }) },
    Object.entries(SMOOTHING).map(([value, text]) => h("option", { value }, text)),
  );
  select.value = String(weight);
  return h("label", { class: "inline" }, "Smoothing ", select);
}

/** Exponential moving mean of the finite values, without the bias of its beginning; gaps stay gaps. */
export function smooth(values, weight) {
  let sum = 0,
    total = 0;
  return values.map((value) => {
    if (!Number.isFinite(value)) return value;
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

/** A model in which each line is smoothed, and drawn faint as it is. */
export function smoothed(model, weight) {
  if (!weight) return model;
  const faint = model.series.map((one, n) => ({
    ...one,
    label: `${one.label}, unsmoothed`,
    opacity: 0.25,
    quiet: true,
    of: one.of ?? n,
  }));
  return { ...model, ys: [...model.ys.map((y) => smooth(y, weight)), ...model.ys], series: [...model.series, ...faint] };
}
