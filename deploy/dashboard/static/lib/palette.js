// Colours and dashes of curves. Neighbours differ in hue for every kind of colour vision, and in dash without colour.

const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3], [12, 4], [4, 2, 1, 2], [1, 4], [14, 3, 3, 3]];
const SERIES = 8;

/** {colour, dash} of the n-th curve in the current theme. */
function defaultInk(n) {
  return { colour: token(`--series-${n % SERIES}`), dash: DASHES[(n + Math.floor(n / SERIES)) % DASHES.length] };
}

/** A colour of the theme by its CSS name. */
export function token(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** {colour, dash} of a series: its number n in the palette, or a token of the theme. `dash` and `opacity` override. */
export function ink(series) {
  const base = series.token ? { colour: token(series.token), dash: [] } : defaultInk(series.n ?? 0);
  const colour = series.opacity ? faint(base.colour, series.opacity) : base.colour;
  return { colour, dash: series.dash ?? base.dash };
}

/** The same colour with an opacity, 0..1. */
function faint(colour, opacity) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return `rgba(${r}, ${g}, ${b}, ${opacity})`;
}
