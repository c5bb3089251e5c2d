// One prompt, samples of the base model beside samples of the trained one.

import { h, put } from "./dom.js";
import { number, plain } from "./format.js";
import { promptCard } from "./prompt_card.js";
import { status } from "./status.js";
import { shown } from "./text.js";

/** Fill `host` with what /api/before-after gave. */
export function showBeforeAfter(host, { prompt, source, before, after }) {
  const judged = source === "judging";
  const note = judged
    ? "Drawn to judge the model before and after training."
    : "No samples were drawn to judge it: these are the oldest and the newest on-policy ones noted while it trained.";
  put(
    host,
    promptCard(prompt?.text ?? "", h("p", { class: "note" }, note)),
    h(
      "div",
      { class: "columns" },
      side(judged ? "Before training" : "Oldest noted", before, "There are no samples from before training."),
      side(judged ? "After training" : "Newest noted", after, "There are no samples from after training yet."),
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
      shown(sample.text || "(empty string)", 600),
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
          `${plain(samples.length)} samples, ${plain(distinct)} different; mean log R ${mean("log_reward")}, mean log q ${mean("log_q")}.`,
        ),
        h("ol", {}, samples.map(line)),
      ]
    : status("empty", none);
  return h("section", { class: "card" }, h("h2", {}, title), body);
}
