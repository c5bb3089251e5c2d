// Samples of the base model next to samples of the trained model, for one prompt.

import { h, put } from "./dom.js";
import { number, plain } from "./format.js";
import { promptCard } from "./prompt_card.js";
import { status } from "./status.js";
import { safeText } from "./text.js";

/** Fill `host` with the response of /api/before-after. */
export function showBeforeAfter(host, { prompt, source, before, after }) {
  const evaluated = source === "judging";
  const note = evaluated
    ? "Drawn for evaluation, before and after training."
    : "No samples were drawn for evaluation: these are the oldest and the newest on-policy samples recorded during training.";
  put(
    host,
    promptCard(prompt?.text ?? "", h("p", { class: "note" }, note)),
    h(
      "div",
      { class: "columns" },
      side(evaluated ? "Before training" : "Oldest recorded", before, "There are no samples from before training."),
      side(evaluated ? "After training" : "Newest recorded", after, "There are no samples from after training yet."),
    ),
  );
}

function side(title, samples, none) {
  const mean = (name) => {
    const values = samples.map((sample) => sample[name]).filter(Number.isFinite);
    return values.length ? number(values.reduce((sum, value) => sum + value, 0) / values.length, "nats") : "–";
  };
  const distinct = new Set(samples.map((sample) => sample.text)).size;
  const line = (sample) =>
    h(
      "li",
      { class: "sample" },
      safeText(sample.text || "(empty string)", 600),
      h(
        "p",
        { class: "facts-line" },
        h("span", {}, "log R ", h("b", {}, number(sample.log_reward))),
        h("span", {}, "log q ", h("b", {}, number(sample.log_q))),
      ),
    );
  const body = samples.length
    ? [
        h(
          "p",
          { class: "note" },
          `${plain(samples.length)} samples, ${plain(distinct)} distinct; mean log R ${mean("log_reward")}, mean log q ${mean("log_q")}.`,
        ),
        h("ol", {}, samples.map(line)),
      ]
    : status("empty", none);
  return h("section", { class: "card" }, h("h2", {}, title), body);
}
