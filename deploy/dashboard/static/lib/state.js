// The state of the page is kept in the address, #/view?run=...&x=time, so links, reload and "back" restore it.

const FIRST_VIEW = "overview";

/** {view, params} from the address. */
export function read(hash = location.hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  return { view: path || FIRST_VIEW, params: Object.fromEntries(new URLSearchParams(query)) };
}

/** The address of a view; empty parameters are omitted. */
export function link(view, params = {}) {
  const kept = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(kept).toString();
  return `#/${view}${query ? `?${query}` : ""}`;
}

/** Change parameters of the open view. `quietly` adds no entry to the browser's history. */
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

/** The names that a parameter lists, such as the plots whose table is open. */
export function flags(text = "") {
  return new Set(text.split(".").filter(Boolean));
}

/** Add a name to such a parameter, or remove it. */
export function remember(parameter, name, kept) {
  const names = flags(read().params[parameter]);
  if (kept) names.add(name);
  else names.delete(name);
  change({ [parameter]: [...names].join(".") }, true);
}
