// Light or dark theme: the system's choice unless the user chose one. The choice is kept in localStorage.

const KEY = "tributary.theme";
const query = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set();

/** The current theme, "light" or "dark". */
export function theme() {
  return localStorage.getItem(KEY) ?? (query.matches ? "dark" : "light");
}

/** Apply the theme and notify the listeners, which draw on canvases. */
export function apply() {
  document.documentElement.dataset.theme = theme();
  for (const listener of listeners) listener();
}

export function toggle() {
  localStorage.setItem(KEY, theme() === "dark" ? "light" : "dark");
  apply();
}

/** Listen to theme changes; returns a function that stops listening. */
export function onTheme(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

query.addEventListener("change", apply);
