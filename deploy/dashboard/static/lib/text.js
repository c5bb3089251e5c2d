// Untrusted text of a model, task or user: shown as text only, with hidden and reordering characters made visible.

const MAX_MARKS = 4; // combining marks on one letter; more would cover the lines above

const NAMES =
  "NUL SOH STX ETX EOT ENQ ACK BEL BS TAB LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US".split(
    " ",
  ); // words, since many fonts have no pictures of control characters

const BIDI = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/u;
const HIDDEN =
  /[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2028\u2029\u2060-\u2065\u206a-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]/u;
const SPACES = /[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]/u;
const MARK = /\p{M}/u;

/** The display of one character: null if it is shown as it is, else {shown, kind, name}. */
function special(character) {
  const code = character.codePointAt(0);
  if (character === "\n") return { shown: "↵", kind: "newline", name: "line feed" };
  if (character === "\t") return { shown: "⇥", kind: "control", name: "tab" };
  if (code < 0x20) return named(NAMES[code], code);
  if (code === 0x7f) return named("DEL", code);
  if (code >= 0x80 && code <= 0x9f) return coded(code, "control", "control character");
  if (BIDI.test(character)) return coded(code, "bidi", "changes the direction of text");
  if (HIDDEN.test(character)) return coded(code, "hidden", "invisible character");
  if (SPACES.test(character)) return coded(code, "hidden", "unusual space");
  if (code >= 0xd800 && code <= 0xdfff) return coded(code, "control", "unpaired surrogate");
  if (code >= 0xe000 && code <= 0xf8ff) return coded(code, "hidden", "private use");
  if (code >= 0xf0000 || (code & 0xfffe) === 0xfffe || (code >= 0xfdd0 && code <= 0xfdef))
    return coded(code, "hidden", "not a Unicode character");
  return null;
}

function named(name, code) {
  return { shown: `‹${name}›`, kind: "control", name: `control character ${hex(code)}` };
}

function coded(code, kind, name) {
  return { shown: `‹${hex(code)}›`, kind, name: `${name} ${hex(code)}` };
}

function hex(code) {
  return `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
}

/** Split text into parts {text, kind, name}; ordinary text has kind "plain". */
function parts(text) {
  const result = [];
  let plain = "",
    marks = 0,
    dropped = 0;
  const flush = () => {
    if (plain) result.push({ text: plain, kind: "plain", name: "" });
    if (dropped) result.push({ text: `‹+${dropped} marks›`, kind: "hidden", name: `${dropped} more combining marks` });
    plain = "";
    dropped = 0;
  };
  for (const character of text) {
    const display = special(character);
    if (display) {
      flush();
      marks = 0;
      result.push({ text: display.shown, kind: display.kind, name: display.name });
      continue;
    }
    marks = MARK.test(character) ? marks + 1 : 0;
    if (marks > MAX_MARKS) dropped += 1;
    else {
      if (dropped) flush();
      plain += character;
    }
  }
  flush();
  return result;
}

/** The text on one line, for labels, titles and options. */
export function oneLine(text, maxLength = 200) {
  const whole = parts(String(text))
    .map((part) => part.text)
    .join("");
  return whole.length > maxLength ? `${whole.slice(0, maxLength)}…` : whole;
}

/** A span with the text, shortened to `maxLength` characters with a count of the rest. */
export function safeText(text, maxLength = 4000, tag = "span") {
  const span = document.createElement(tag);
  span.className = "model-text";
  const characters = Array.from(String(text));
  appendText(span, characters.slice(0, maxLength).join(""));
  if (characters.length > maxLength) {
    const more = document.createElement("span");
    more.className = "more";
    more.textContent = ` … ${(characters.length - maxLength).toLocaleString("en")} more characters`;
    span.append(more);
  }
  return span;
}

/** Append text to an element, with special characters marked. */
export function appendText(element, text) {
  for (const part of parts(text)) {
    if (part.kind === "plain") {
      element.append(document.createTextNode(part.text));
      continue;
    }
    const mark = document.createElement("span");
    mark.className = `ctl ${part.kind}`;
    mark.textContent = part.text;
    mark.title = part.name;
    element.append(mark);
    if (part.kind === "newline") element.append(document.createElement("wbr"));
  }
}
