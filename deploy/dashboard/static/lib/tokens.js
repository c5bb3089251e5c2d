// A response token by token: coloured by what its tokens did, every prefix's numbers on hover, focus or arrow keys.

import { h, say } from "./dom.js";
import { plain } from "./format.js";
import { fillWith, plainly } from "./text.js";

export const MODES = {
  log_q: { title: "log q of the token", unit: "nats", steps: [0.5, 2, 5] },
  gain: { title: "gain in log R", unit: "nats", steps: [0.25, 1, 4] },
  u: { title: "u_i against the string's mean", unit: "nats", steps: [0.25, 1, 3] },
};

/** What token i (0-based) is coloured by; null where it is not defined. */
function valueOf(sample, mode, i) {
  if (mode === "log_q") return sample.log_pf[i] ?? null;
  if (mode === "gain") return difference(sample.log_reward_prefix[i + 1], sample.log_reward_prefix[i]);
  const finite = sample.u.filter((u) => u !== null);
  return difference(sample.u[i + 1], finite.reduce((sum, u) => sum + u, 0) / finite.length);
}

function difference(a, b) {
  return Number.isFinite(a) && Number.isFinite(b) ? a - b : null;
}

/** The class of a value: seven steps from far below to far above. */
function step(value, mode) {
  if (value === null) return "none";
  const size = MODES[mode].steps.filter((edge) => Math.abs(value) >= edge).length;
  return size ? `${value < 0 ? "less" : "more"}-${size}` : "same";
}

/** The key of the colours, in numbers. */
export function scale(mode) {
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
 * The tokens of a sample in one element. `told(sentence)` hears of the token under the cursor; null when there is none.
 * Samples without numbers of their tokens are shown plain.
 */
export function tokens(sample, mode, told) {
  const pieces = sample.pieces.length ? sample.pieces : [sample.text];
  const known = sample.log_pf.length === pieces.length;
  const spans = pieces.map((piece, i) => {
    const tool = known && sample.is_action[i] === false;
    const span = h("span", {
      class: `token ${tool ? "tool" : known ? step(valueOf(sample, mode, i), mode) : ""}`,
      "data-i": i,
    });
    fillWith(span, piece);
    return span;
  });
  const strip = h(
    "div",
    {
      class: "tokens",
      tabindex: known ? 0 : null,
      role: known ? "group" : null,
      "aria-label": known ? "Tokens: arrow keys read them one by one" : null,
    },
    spans,
    spans.length ? null : h("span", { class: "stop" }, "(empty string)"),
    h("span", { class: "stop", title: "end of the string" }, "⊤"),
  );
  if (known) listen(strip, spans, (i) => told(i === null ? null : sentence(sample, i)));
  return strip;
}

function listen(strip, spans, told) {
  let at = null;
  const stand = (i) => {
    if (at !== null) spans[at]?.classList.remove("at");
    at = i;
    if (at !== null) spans[at]?.classList.add("at");
    told(at);
  };
  strip.addEventListener("pointerover", (event) => {
    const span = event.target.closest(".token");
    if (span) stand(Number(span.dataset.i));
  });
  strip.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined || !spans.length) return;
    event.preventDefault();
    stand(Math.min(spans.length - 1, Math.max(0, (at ?? (by < 0 ? spans.length : -1)) + by)));
  });
  strip.addEventListener("blur", () => stand(null));
}

/** Everything that is known of the prefix that ends with token i, in one line. */
function sentence(sample, i) {
  const who = sample.is_action[i] === false ? "written by a tool" : `log q ${plain(sample.log_pf[i])}`;
  const gain = valueOf(sample, "gain", i);
  const terms = Object.entries(sample.terms).map(([name, values]) => `${plainly(name, 30)} ${plain(values[i + 1])}`);
  const parts = [
    `token ${i + 1} of ${sample.log_pf.length} “${plainly(sample.pieces[i], 40)}”`,
    who,
    `log q(stop after it) ${plain(sample.log_pterm[i + 1])}`,
    `log R of the prefix ${plain(sample.log_reward_prefix[i + 1])} (gain ${gain > 0 ? "+" : ""}${plain(gain)})`,
    `u ${sample.u[i + 1] === null ? "not defined here" : plain(sample.u[i + 1])}`,
  ];
  return `${parts.join(" · ")}${terms.length > 1 ? ` · ${terms.join(", ")}` : ""} (nats)`;
}

/** A line at the bottom of the view that tells of the token under the cursor. */
export function teller() {
  const rest = "Point at a token, or focus a string and use the arrow keys, to read its prefix: log q, log R and u_i.";
  const element = h("p", { class: "detail", role: "status" }, rest);
  return { element, told: (text) => say(element, text ?? rest) };
}
