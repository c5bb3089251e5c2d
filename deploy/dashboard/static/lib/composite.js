// A view of several parts, each with load, tick and close (and change, where it has an address of its own): one handle for all.

/** What the page calls. `parts` load now; `change(next)` and `close()` do what the view adds. */
export function together(parts, { change = () => {}, close = () => {} } = {}) {
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
