// What a view or a plot shows instead of numbers: loading, empty, error. Always a sentence, never only a colour.

import { h } from "./dom.js";

const MARKS = { loading: "…", empty: "○", error: "✕", stale: "▲", note: "ℹ" };

/** A paragraph for one state. `remedy` is what the reader can do. */
export function status(kind, sentence, remedy = "") {
  const role = kind === "error" ? "alert" : "status";
  return h(
    "p",
    { class: `status ${kind}`, role },
    h("span", { class: "mark", "aria-hidden": "true" }, MARKS[kind]),
    h("span", {}, sentence, remedy && ` ${remedy}`),
  );
}

/** What went wrong with a request, in words. */
export function failure(error) {
  if (error.kind === "disconnected")
    return status("error", error.message, "The page tries again by itself; what you see is what was known last.");
  if (error.kind === "unauthorised") return status("error", error.message, "Enter the token above.");
  if (error.kind === "busy") return status("error", error.message, "The page tries again by itself.");
  return status("error", error.message ?? String(error));
}

/** Why there are no readings yet, from the state of the run. */
export function nothingYet(overview, what) {
  const state = overview?.state;
  if (state === "finished" || state === "stopped" || state === "dead")
    return status("empty", `This run recorded ${what.replace(/^no /, "no ")}.`);
  if (state === "starting")
    return status("empty", `There are ${what} yet: actors are starting. That takes a minute or two.`);
  return status("empty", `There are ${what} yet.`, "They appear here by themselves.");
}
