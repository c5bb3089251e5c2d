// Combines the parts of a view, each with load, tick, close and optionally change, into one handle.

/** The handle of a view. Loads all parts at once; `change(next)` and `close()` are hooks of the view. */
export function composite(parts, { change = () => {}, close = () => {} } = {}) {
  const all = (verb) => parts.forEach((part) => part[verb]());
  all("load");
  return {
    tick: () => all("tick"),
    reset: () => all("load"),
    change: (next) => {
      parts.forEach((part) => part.change?.(next));
      change(next);
    },
    close: () => {
      all("close");
      close();
    },
  };
}
