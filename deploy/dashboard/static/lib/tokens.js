// A response token by token: coloured by a value, with the numbers of each prefix on hover, focus or arrow keys.

import { h, setText } from "./dom.js";
import { plain } from "./format.js";
import { GLOSSARY } from "./glossary.js";
import { appendText, oneLine } from "./text.js";

export const MODES = {
  log_q: { title: "log q of the token", unit: "nats", steps: [0.5, 2, 5] },
  gain: { title: "gain in log R", unit: "nats", steps: [0.25, 1, 4] },
  u: { title: "u_i minus the mean of the string", unit: "nats", steps: [0.25, 1, 3] },
};

/** The value that colours token i (0-based); null if it is undefined. */
function valueOf(sample, mode, i) {
  if (mode === "log_q") return sample.log_pf[i] ?? null;
  if (mode === "gain") return difference(sample.log_reward_prefix[i + 1], sample.log_reward_prefix[i]);
  const finite = sample.u.filter((u) => u !== null);
  return difference(sample.u[i + 1], finite.reduce((sum, u) => sum + u, 0) / finite.length);
}

function difference(a, b) {
  return Number.isFinite(a) && Number.isFinite(b) ? a - b : null;
}

/** The CSS class of a value: seven steps from far below to far above. */
function colourClass(value, mode) {
  if (value === null) return "none";
  const size = MODES[mode].steps.filter((edge) => Math.abs(value) >= edge).length;
  return size ? `${value < 0 ? "less" : "more"}-${size}` : "same";
}

/** The colour key with its thresholds. */
export function colourKey(mode) {
  const [a, b, c] = MODES[mode].steps;
  const below = [
    [`< −${c}`, "less-3"],
    [`< −${b}`, "less-2"],
    [`< −${a}`, "less-1"],
    ["about 0", "same"],
  ];
  const above = [
    [`> ${a}`, "more-1"],
    [`> ${b}`, "more-2"],
    [`> ${c}`, "more-3"],
  ];
  const swatch = ([text, name]) => h("span", { class: `token ${name}` }, text);
  return h(
    "p",
    { class: "scale" },
    `${MODES[mode].title} (${MODES[mode].unit}): `,
    below.map(swatch),
    mode === "log_q" ? [] : above.map(swatch),
    h("span", { class: "token tool" }, "written by a tool"),
  );
}

/**
 * The tokens of a sample in one element. `onToken(sentence)` is called with the token under the cursor, or null.
 * Samples without per-token values are shown without colours.
 */
export function tokens(sample, mode, onToken) {
  const pieces = sample.pieces.length ? sample.pieces : [sample.text];
  const hasValues = sample.log_pf.length === pieces.length;
  const spans = pieces.map((piece, i) => {
    const tool = hasValues && sample.is_action[i] === false;
    const span = h("span", {
      class: `token ${tool ? "tool" : hasValues ? colourClass(valueOf(sample, mode, i), mode) : ""}`,
      "data-i": i,
    });
    appendText(span, piece);
    return span;
  });
  const strip = h(
    "div",
    {
      class: "tokens",
      tabindex: hasValues ? 0 : null,
      role: hasValues ? "group" : null,
      "aria-label": hasValues ? "Tokens: arrow keys read them one by one" : null,
    },
    spans,
    spans.length ? null : h("span", { class: "stop" }, "(empty string)"),
    h("span", { class: "stop", title: GLOSSARY["⊤"] }, "⊤"),
  );
  if (hasValues) listen(strip, spans, (i) => onToken(i === null ? null : sentence(sample, i)));
  return strip;
}

function listen(strip, spans, onMove) {
  let at = null;
  const moveTo = (i) => {
    if (at !== null) spans[at]?.classList.remove("at");
    at = i;
    if (at !== null) spans[at]?.classList.add("at");
    onMove(at);
  };
  strip.addEventListener("pointerover", (event) => {
    const span = event.target.closest(".token");
    if (span) moveTo(Number(span.dataset.i));
  });
  strip.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined || !spans.length) return;
    event.preventDefault();
    moveTo(Math.min(spans.length - 1, Math.max(0, (at ?? (by < 0 ? spans.length : -1)) + by)));
  });
  strip.addEventListener("blur", () => moveTo(null));
}

/** The numbers of the prefix that ends with token i, in one line. */
function sentence(sample, i) {
  const who = sample.is_action[i] === false ? "written by a tool" : `log q ${plain(sample.log_pf[i])}`;
  const gain = valueOf(sample, "gain", i);
  const terms = Object.entries(sample.terms).map(([name, values]) => `${oneLine(name, 30)} ${plain(values[i + 1])}`);
  const parts = [
    `token ${i + 1} of ${sample.log_pf.length} “${oneLine(sample.pieces[i], 40)}”`,
    who,
    `log q(⊤ after it) ${plain(sample.log_pterm[i + 1])}`,
    `log R of the prefix ${plain(sample.log_reward_prefix[i + 1])} (gain ${gain > 0 ? "+" : ""}${plain(gain)})`,
    `u ${sample.u[i + 1] === null ? "undefined here" : plain(sample.u[i + 1])}`,
  ];
  return `${parts.join(" · ")}${terms.length > 1 ? ` · ${terms.join(", ")}` : ""} (nats)`;
}

/** A line at the bottom of the view with the numbers of the token under the cursor. */
export function tokenDetail() {
  const hint = `Point at a token, or focus a string and use the arrow keys, to read its prefix: log q, log R and u, ${GLOSSARY.u}. ⊤ is ${GLOSSARY["⊤"]}.`;
  const element = h("p", { class: "detail", role: "status" }, hint);
  return { element, show: (text) => setText(element, text ?? hint) };
}
