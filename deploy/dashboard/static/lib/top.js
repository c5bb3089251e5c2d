// The top bar: choice of run, state of its components, connection, pause and theme.

import { h, put, setText } from "./dom.js";
import { clock, duration, plain } from "./format.js";
import { link, read } from "./state.js";
import { oneLine } from "./text.js";
import { onTheme, theme, toggle } from "./theme.js";
import { stateLabel } from "./labels.js";

const LIVE_STATES = new Set(["starting", "running", "judging", "empty"]);
const STALE_S = 15;

export class Top {
  constructor(root, live) {
    this.live = live;
    this.runs = h("select", { id: "run", onchange: (event) => this.choose(event.target.value) });
    this.chips = h("ul", { class: "chips", "aria-label": "State of each part of the run" });
    this.link = h("span", { class: "connection", role: "status" });
    this.pauseButton = h("button", { type: "button", class: "quiet", onclick: () => live.pause(!live.paused) });
    this.themeButton = h("button", { type: "button", class: "quiet", onclick: toggle });
    this.menuButton = h(
      "button",
      {
        type: "button",
        class: "quiet menu",
        "aria-controls": "views",
        "aria-expanded": "false",
        onclick: () => this.menu(),
      },
      "☰ Views",
    );
    this.picker = h("label", { class: "picker", hidden: true }, h("span", { class: "aside" }, "Run"), this.runs);
    const controls = h("div", { class: "controls" }, this.link, this.pauseButton, this.themeButton);
    this.banner = h("div", { class: "banner", role: "alert", hidden: true });
    root.append(
      h(
        "div",
        { class: "bar" },
        this.menuButton,
        h("a", { class: "brand", href: "#/overview" }, "Tributary"),
        this.picker,
        controls,
      ),
      this.chips,
      this.banner,
    );
    for (const event of ["connection", "paused", "overview", "clock"]) live.addEventListener(event, () => this.show());
    this.show();
    onTheme(() => this.showTheme());
    this.showTheme();
  }

  choose(id) {
    this.runs.blur();
    const { view } = read();
    location.hash = link(view, { run: id });
  }

  menu(open = this.menuButton.getAttribute("aria-expanded") !== "true") {
    this.menuButton.setAttribute("aria-expanded", String(open));
    document.body.classList.toggle("menu-open", open);
  }

  setRuns(runs, chosen) {
    if (document.activeElement === this.runs) return; // the list is open
    put(
      this.runs,
      runs.map((run) =>
        h(
          "option",
          { value: run.id, selected: run.id === chosen },
          `${oneLine(run.name, 40)} – ${stateLabel(run.state)[1]}`,
        ),
      ),
    );
    this.runs.value = chosen;
    this.picker.hidden = false;
  }

  showTheme() {
    const other = theme() === "dark" ? "light" : "dark";
    put(this.themeButton, h("span", { "aria-hidden": "true" }, other === "dark" ? "☾ " : "☀ "), other);
    this.themeButton.setAttribute("aria-label", `Show the page in ${other} colours`);
  }

  show() {
    const { live } = this;
    setText(this.pauseButton, live.paused ? "▶ resume" : "❚❚ pause");
    this.pauseButton.setAttribute("aria-pressed", String(live.paused));
    const [kind, words] = this.connectionText();
    this.link.className = `connection ${kind}`;
    setText(this.link, words);
    this.showBanner();
    this.showChips();
  }

  /** CSS class and text for the connection and the age of the data. */
  connectionText() {
    const { live } = this;
    if (live.connection === "unauthorised") return ["bad", "✕ token needed"];
    if (live.connection === "disconnected") return ["bad", "✕ disconnected"];
    if (live.connection === "reconnecting") return ["warn", "▲ reconnecting …"];
    if (live.overview?.state === "down") return ["bad", "✕ Redis does not answer"];
    if (live.connection === "connecting") return ["", "… connecting"];
    if (live.paused) return ["warn", `❚❚ paused${live.missed ? `, ${plain(live.missed)} updates waiting` : ""}`];
    const run = live.overview?.state,
      age = live.age();
    if (run && !LIVE_STATES.has(run))
      return [
        run === "stale" ? "warn" : "",
        run === "stale" ? `▲ stale: no update for ${duration(age)}` : `■ ${stateLabel(run)[1]}`,
      ];
    if (age !== null && age > STALE_S) return ["warn", `▲ stale: no update for ${duration(age)}`];
    return ["good", "● live"];
  }

  showBanner() {
    const { live } = this;
    const sentences = {
      disconnected: `${live.sentence} Is tributary dashboard still running? The page retries every few seconds; it shows data from ${clock(live.overview?.now)}.`,
      reconnecting: "",
    };
    let sentence = sentences[live.connection] ?? "";
    const run = live.overview;
    if (!sentence && run?.state === "dead")
      sentence = "The run's process ended without finishing the run. Continue it with tributary train --resume.";
    if (!sentence && run?.state === "down")
      sentence = "Redis does not answer: the numbers below are the last reading. The page retries automatically.";
    const mild = !sentence && run?.recording && !run.recording.ok;
    if (mild) sentence = run.recording.sentence ?? "The run can't write its history.";
    this.banner.classList.toggle("mild", Boolean(mild));
    this.banner.hidden = !sentence;
    setText(this.banner, oneLine(sentence, 600));
  }

  showChips() {
    const components = this.live.overview?.components ?? [];
    const key = JSON.stringify(components.map((part) => [part.name, part.state]));
    if (key === this.chipsKey) return;
    this.chipsKey = key;
    const shown = components.slice(0, 12);
    const chip = (part) => {
      const [mark, words, kind] = stateLabel(part.state);
      return h(
        "li",
        { class: `chip ${kind}` },
        h("span", { "aria-hidden": "true" }, mark),
        h("b", {}, oneLine(part.name, 24)),
        words,
      );
    };
    put(
      this.chips,
      shown.map(chip),
      components.length > shown.length && h("li", { class: "chip" }, `and ${components.length - shown.length} more`),
    );
    this.chips.hidden = !components.length;
  }
}
