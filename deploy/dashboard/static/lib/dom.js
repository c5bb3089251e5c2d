// Builds elements. Strings become text nodes, so nothing that a model wrote is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children. `on...` functions listen; null, undefined and false attributes are left out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
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

/** Replace what is in an element. */
export function put(element, ...children) {
  element.replaceChildren(
    ...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** Change an element's text only where it differs: less work for the browser and for screen readers. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Like put, for what comes anew with every tick: stays as it is while the reader has its focus or a selection in it. */
export function renew(element, ...children) {
  const { anchorNode, isCollapsed } = getSelection() ?? {};
  const used = element.contains(document.activeElement) || (anchorNode && !isCollapsed && element.contains(anchorNode));
  return used && element.childElementCount ? element : put(element, ...children);
}

/** Something wide in a box that scrolls, also by keyboard. */
export function scroller(label, ...children) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, ...children);
}
