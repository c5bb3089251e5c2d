// What the page shows is held by the address: #/view?run=...&x=time. So a link, a reload and "back" show the same again.

const FIRST_VIEW = "overview";

/** {view, params} from the address. */
export function read(hash = location.hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  return { view: path || FIRST_VIEW, params: Object.fromEntries(new URLSearchParams(query)) };
}

/** An address for a view; empty parameters are left out. */
export function link(view, params = {}) {
  const kept = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(kept).toString();
  return `#/${view}${query ? `?${query}` : ""}`;
}

/** Change parameters of the view that is open. `quietly` leaves no entry in the browser's history. */
export function change(patch, quietly = false) {
  const { view, params } = read();
  const target = link(view, { ...params, ...patch });
  if (target === location.hash) return;
  if (!quietly) {
    location.hash = target;
    return;
  }
  history.replaceState(null, "", target);
  window.dispatchEvent(new HashChangeEvent("hashchange"));
}

/** The names that a parameter holds, as which plots have their table open. */
export function flags(text = "") {
  return new Set(text.split(".").filter(Boolean));
}

/** Keep a name in such a parameter, or take it out. */
export function remember(parameter, name, kept) {
  const now = flags(read().params[parameter]);
  if (kept) now.add(name);
  else now.delete(name);
  change({ [parameter]: [...now].join(".") }, true);
}
