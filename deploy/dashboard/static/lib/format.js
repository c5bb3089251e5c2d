// Formats numbers and times. The API sends null for values that are not finite; they are shown as a dash.

const DASH = "–";
const UNITLESS = new Set(["1", ""]);

/** A number with its unit, four significant digits; null gives a dash. */
export function number(value, unit = "1") {
  if (value === null || value === undefined || !Number.isFinite(value)) return DASH;
  if (unit === "share") return `${plain(100 * value, 3)} %`;
  const digits = plain(value);
  if (UNITLESS.has(unit)) return digits;
  return unit === "1/s" ? `${digits} /s` : `${digits} ${unit}`;
}

/** A number without unit; very large and very small ones in powers of ten. */
export function plain(value, significant = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return DASH;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e9))
    return minus(value.toExponential(Math.max(0, significant - 2)).replace(/\.?0+e/, "e"));
  if (Number.isInteger(value)) return minus(value.toLocaleString("en"));
  const shown = Number(value.toPrecision(significant));
  return minus(shown.toLocaleString("en", { maximumFractionDigits: 8 }));
}

function minus(text) {
  return text.replace("-", "−");
}

/** Seconds as 4 min 22 s; null gives a dash. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return DASH;
  const whole = Math.max(0, Math.round(seconds));
  const days = Math.floor(whole / 86400),
    hours = Math.floor(whole / 3600) % 24,
    minutes = Math.floor(whole / 60) % 60;
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  if (minutes) return `${minutes} min ${whole % 60} s`;
  return seconds < 1 && seconds > 0 ? `${plain(seconds, 2)} s` : `${whole} s`;
}

/** Local time with seconds, and the date if it is not today. */
export function clock(unix) {
  if (!unix) return DASH;
  const date = new Date(1000 * unix);
  const time = date.toLocaleTimeString("en-GB");
  return date.toDateString() === new Date().toDateString() ? time : `${day(date)} ${time}`;
}

function day(date) {
  const two = (part) => String(part).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

/** The time in UTC, for tooltips. */
export function utc(unix) {
  return unix
    ? new Date(1000 * unix)
        .toISOString()
        .replace("T", " ")
        .replace(/\.\d+Z/, " UTC")
    : "";
}
