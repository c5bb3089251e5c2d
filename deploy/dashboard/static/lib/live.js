// The one live connection of the page: server-sent events of one run, kept alive, and what they said last.
//
// connection: connecting, live, reconnecting, disconnected, unauthorised, refused. Listeners hear "tick" (news of the run), "reset"
// (ask for everything again), "connection" (of any change here) and "paused".

import { ApiError, get } from "./api.js";

const SILENT_MS = 40000; // the server says something every 15 s; after this long the line is dead though nobody closed it
const OVER = new Set(["finished", "stopped", "dead"]); // nothing more will come of such a run
const NOTHING_NEW = { fresh: { learner: 0, moments: 0, samples: 0, events: 0 }, events: [] };
const RETRY_MS = [1000, 2000, 4000, 8000];

export class Live extends EventTarget {
  constructor() {
    super();
    this.run = "";
    this.overview = null;
    this.connection = "connecting";
    this.sentence = ""; // why it is not live
    this.paused = false;
    this.missed = 0; // ticks while paused
    this.heardAt = performance.now();
    this.overviewAt = performance.now();
    this.tries = 0;
    this.broken = false;
    this.watch = setInterval(() => this.check(), 1000);
  }

  /** Follow a run; what is known of another one is forgotten. */
  follow(run) {
    this.run = run;
    this.overview = null;
    this.tries = 0;
    this.broken = false;
    this.open();
  }

  /** Age of the newest reading of the run, s, by the server's clock and what has passed here since; null before there is one. */
  age() {
    const age = this.overview?.age_s;
    return age === null || age === undefined ? null : age + (performance.now() - this.overviewAt) / 1000;
  }

  pause(on) {
    this.paused = on;
    this.tell("paused");
    if (!on && this.missed) this.tell("reset");
    this.missed = 0;
  }

  retry() {
    this.tries = 0;
    this.open();
  }

  open() {
    this.close();
    this.became(this.broken ? "reconnecting" : "connecting", "");
    this.heardAt = performance.now();
    const query = this.run ? `?${new URLSearchParams({ run: this.run })}` : "";
    const source = new EventSource(`/api/stream${query}`);
    source.addEventListener("open", () => this.opened());
    source.addEventListener("tick", (event) => this.heard(JSON.parse(event.data)));
    source.addEventListener("heartbeat", () => this.refresh());
    source.addEventListener("reset", () => {
      this.heardAt = performance.now();
      this.tell("reset");
    });
    source.addEventListener("error", () => this.failed());
    this.source = source;
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  /** Without a token there is nothing to listen to. */
  refuse() {
    this.close();
    this.became("unauthorised", "");
  }

  opened() {
    this.heardAt = performance.now();
    this.tries = 0;
    this.became("live", "");
    if (this.broken) this.tell("reset");
    this.broken = false;
  }

  heard(tick) {
    this.heardAt = performance.now();
    this.learn(tick.overview);
    if (this.paused) {
      this.missed += 1;
      this.tell("connection");
    } else this.tell("tick", tick);
  }

  /** The server is there, the run said nothing: how does the run stand? */
  async refresh() {
    this.heardAt = performance.now();
    const before = this.overview?.state;
    const overview = await get("overview", { run: this.run }).catch(() => null);
    if (!overview) return;
    this.learn(overview);
    if (!this.paused && !(OVER.has(overview.state) && overview.state === before))
      this.tell("tick", { overview, ...NOTHING_NEW });
  }

  learn(overview) {
    this.overview = overview;
    this.overviewAt = performance.now();
    this.tell("overview");
  }

  /** The line broke. The reason is not told to scripts, so ask by another way. */
  async failed() {
    this.close();
    this.broken = true;
    this.became("reconnecting", this.sentence);
    const problem = await get("runs").then(
      () => null,
      (error) => error,
    );
    if (problem instanceof ApiError && problem.kind === "unauthorised") {
      this.became("unauthorised", problem.message);
      return;
    }
    if (problem) this.became("disconnected", problem.message);
    const wait = RETRY_MS[Math.min(this.tries, RETRY_MS.length - 1)];
    this.tries += 1;
    this.close();
    this.timer = setTimeout(() => this.open(), wait);
  }

  check() {
    if (this.source && performance.now() - this.heardAt > SILENT_MS) this.failed();
    this.tell("clock");
  }

  became(connection, sentence) {
    if (connection === this.connection && sentence === this.sentence) return;
    if (connection === "reconnecting" && this.connection === "disconnected") return; // one more try is no news
    this.connection = connection;
    this.sentence = sentence;
    this.tell("connection");
  }

  tell(name, detail = null) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
