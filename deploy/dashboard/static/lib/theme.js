// Light or dark: the system's choice, unless the reader chose. The only thing kept in the browser, with the key for shortcuts.

const KEY = "tributary.theme";
const query = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set();

/** "light" or "dark", as shown now. */
export function theme() {
  return localStorage.getItem(KEY) ?? (query.matches ? "dark" : "light");
}

/** Show it, and tell whoever draws on a canvas. */
export function apply() {
  document.documentElement.dataset.theme = theme();
  for (const listener of listeners) listener();
}

export function toggle() {
  localStorage.setItem(KEY, theme() === "dark" ? "light" : "dark");
  apply();
}

/** Be told of changes; gives a function that ends it. */
export function onTheme(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

query.addEventListener("change", apply);
