// Downloads of a plot: its numbers as CSV, its picture as PNG.

import { h } from "./dom.js";
import { token } from "./palette.js";

/** Rows as CSV. A text that a spreadsheet would run as a formula is prefixed with a quote mark. */
function csv(columns, rows) {
  return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Download the points of a plot model as CSV. */
export function saveNumbers(title, columns, { x, ys }) {
  const rows = x.map((value, i) => [value, ...ys.map((y) => y[i])]);
  saveBlob(fileName(title, "csv"), new Blob([csv(columns, rows)], { type: "text/csv;charset=utf-8" }));
}

function saveBlob(name, blob) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** Download a picture of a plot with its title and legend [{label, colour, dash}], in the current theme. */
export function savePicture(name, plot, title, legend) {
  const ratio = plot.width / plot.clientWidth || 1;
  const row = 20,
    head = 34 + row * legend.length;
  const canvas = h("canvas", { width: plot.width, height: plot.height + head * ratio });
  const pen = canvas.getContext("2d");
  pen.fillStyle = token("--card");
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(plot, 0, head * ratio);
  pen.scale(ratio, ratio);
  pen.fillStyle = token("--ink");
  pen.font = "600 15px system-ui, sans-serif";
  pen.fillText(title, 12, 22);
  pen.font = "12px system-ui, sans-serif";
  legend.forEach((entry, n) => {
    const y = 40 + row * n;
    pen.strokeStyle = entry.colour;
    pen.lineWidth = 2;
    pen.setLineDash(entry.dash);
    pen.beginPath();
    pen.moveTo(12, y - 4);
    pen.lineTo(40, y - 4);
    pen.stroke();
    pen.fillText(entry.label, 48, y);
  });
  canvas.toBlob((blob) => saveBlob(name, blob), "image/png");
}

/** A file name from a title. */
export function fileName(title, ending) {
  return `${
    title
      .toLowerCase()
      .replace(/[^a-z0-9]+/g, "-")
      .replace(/^-|-$/g, "") || "plot"
  }.${ending}`;
}
