// The registered figures, as /api/catalog lists them: views name a figure, and take its title, unit, axis, meaning
// and aim from here. A part of a name in capitals stands for any name (actor.NAME.busy), {} in a title for that name.

import { get } from "./api.js";
import { oneLine } from "./text.js";

const registered = new Map();

/** Load the figures. Views call `describe` after that; app.js opens no view before. */
export async function loadFigures() {
  if (registered.size) return;
  for (const entry of (await get("catalog")).figures) registered.set(entry.name, entry);
}

/** True if a name stands for the curves of several processes, prompts or reasons. */
export function isPattern(name) {
  return wildcard(name) !== undefined;
}

/** The text that the capitals of `pattern` stand for in the name of a curve; null if they differ elsewhere. */
export function filledIn(pattern, curve) {
  if (!isPattern(pattern)) return null;
  const [begin, end] = pattern.split(wildcard(pattern));
  const fits = curve.startsWith(begin) && curve.endsWith(end) && curve.length > begin.length + end.length;
  return fits ? curve.slice(begin.length, curve.length - end.length) : null;
}

/** {name, title, unit, meaning, log, aim, sparse} of a figure or of a curve. An unregistered curve is its own title. */
export function describe(name) {
  const entry = registered.get(name);
  if (entry) return { ...entry, title: entry.title.replace(/^\{\}: /, "") };
  for (const pattern of registered.values()) {
    const text = filledIn(pattern.name, name);
    if (text !== null) return { ...pattern, name, title: oneLine(pattern.title.replace("{}", () => text), 60) };
  }
  return { name, title: oneLine(name, 60), unit: "", meaning: "", log: false, aim: null, sparse: false };
}

/** The title as a heading. Terms such as log R, and the names that tasks and processes give, keep their case. */
export function heading(name) {
  const { title } = describe(name);
  const keepsCase = !registered.has(name) || title.startsWith("log ");
  return keepsCase ? title : title.charAt(0).toUpperCase() + title.slice(1);
}

/** The aim of a figure as a level line of its plot. */
export function aimLevels(name) {
  const { aim } = describe(name);
  return aim === null ? [] : [{ value: aim, label: "optimum", include: true }];
}

function wildcard(name) {
  return name.split(".").find((part) => /^[A-Z]+$/.test(part));
}
