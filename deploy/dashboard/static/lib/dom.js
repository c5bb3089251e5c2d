// Builds elements. Strings become text nodes, so text of a model is never parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children. `on...` functions become listeners; null, undefined and false are omitted. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element, built like `h`. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Replace the children of an element. */
export function put(element, ...children) {
  element.replaceChildren(
    ...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** Set the text of an element if it differs, so that screen readers announce changes only. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Like put, for content that changes with every tick: no change while it contains the focus or a selection. */
export function renew(element, ...children) {
  const { anchorNode, isCollapsed } = getSelection() ?? {};
  const inUse = element.contains(document.activeElement) || (anchorNode && !isCollapsed && element.contains(anchorNode));
  return inUse && element.childElementCount ? element : put(element, ...children);
}

/** A box that scrolls wide content, also by keyboard. */
export function scroller(label, ...children) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, ...children);
}
