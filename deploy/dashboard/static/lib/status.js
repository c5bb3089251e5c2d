// Status paragraphs shown instead of numbers: loading, empty, error. Always a sentence, never only a colour.

import { h } from "./dom.js";

const MARKS = { loading: "…", empty: "○", error: "✕", stale: "▲", note: "ℹ" };

/** A paragraph for one state. `remedy` says how to fix it. */
export function status(kind, sentence, remedy = "") {
  const role = kind === "error" ? "alert" : "status";
  return h(
    "p",
    { class: `status ${kind}`, role },
    h("span", { class: "mark", "aria-hidden": "true" }, MARKS[kind]),
    h("span", {}, sentence, remedy && ` ${remedy}`),
  );
}

/** The error of a request in words. */
export function errorStatus(error) {
  if (error.kind === "disconnected")
    return status("error", error.message, "The page retries automatically; it shows the last data received.");
  if (error.kind === "unauthorised") return status("error", error.message, "Enter the token above.");
  if (error.kind === "busy") return status("error", error.message, "The page retries automatically.");
  return status("error", error.message ?? String(error));
}

/** The reason why there is no data yet, from the state of the run; `what` begins with "no". */
export function emptyStatus(overview, what) {
  const state = overview?.state;
  if (state === "finished" || state === "stopped" || state === "dead")
    return status("empty", `This run recorded ${what}.`);
  if (state === "starting")
    return status("empty", `There are ${what} yet: actors are starting, which takes a minute or two.`);
  return status("empty", `There are ${what} yet.`, "They will appear automatically.");
}
