// The live connection of the page: the server-sent events of one run and its newest overview.
//
// connection: connecting, live, reconnecting, disconnected, unauthorised, refused. Events: "tick" (new rows), "reset"
// (reload everything), "connection" (its state changed), "overview", "clock" and "paused".

import { ApiError, get } from "./api.js";

const SILENT_MS = 40000; // the server sends a message every 15 s; after this silence the connection is considered lost
const ENDED_STATES = new Set(["finished", "stopped", "dead"]); // such a run sends no more rows
const EMPTY_TICK = { fresh: { learner: 0, snapshots: 0, samples: 0, events: 0 }, events: [] };
const RETRY_MS = [1000, 2000, 4000, 8000];

export class Live extends EventTarget {
  constructor() {
    super();
    this.run = "";
    this.overview = null;
    this.connection = "connecting";
    this.sentence = ""; // the reason if it is not live
    this.paused = false;
    this.missed = 0; // ticks while paused
    this.lastMessageAt = performance.now();
    this.overviewAt = performance.now();
    this.tries = 0;
    this.broken = false;
    this.watch = setInterval(() => this.check(), 1000);
  }

  /** Follow a run; drops the data of the previous one. */
  follow(run) {
    this.run = run;
    this.overview = null;
    this.tries = 0;
    this.broken = false;
    this.open();
  }

  /** Age in s of the newest snapshot: its age at the server plus the time since; null before the first. */
  age() {
    const age = this.overview?.age_s;
    return age === null || age === undefined ? null : age + (performance.now() - this.overviewAt) / 1000;
  }

  pause(on) {
    this.paused = on;
    this.emit("paused");
    if (!on && this.missed) this.emit("reset");
    this.missed = 0;
  }

  retry() {
    this.tries = 0;
    this.open();
  }

  open() {
    this.close();
    this.setConnection(this.broken ? "reconnecting" : "connecting", "");
    this.lastMessageAt = performance.now();
    const query = this.run ? `?${new URLSearchParams({ run: this.run })}` : "";
    const source = new EventSource(`/api/stream${query}`);
    source.addEventListener("open", () => this.opened());
    source.addEventListener("tick", (event) => this.received(JSON.parse(event.data)));
    source.addEventListener("heartbeat", () => this.refresh());
    source.addEventListener("reset", () => {
      this.lastMessageAt = performance.now();
      this.emit("reset");
    });
    source.addEventListener("error", () => this.failed());
    this.source = source;
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  /** Close the connection until a token is given. */
  disconnect() {
    this.close();
    this.setConnection("unauthorised", "");
  }

  opened() {
    this.lastMessageAt = performance.now();
    this.tries = 0;
    this.setConnection("live", "");
    if (this.broken) this.emit("reset");
    this.broken = false;
  }

  received(tick) {
    this.lastMessageAt = performance.now();
    this.setOverview(tick.overview);
    if (this.paused) {
      this.missed += 1;
      this.emit("connection");
    } else this.emit("tick", tick);
  }

  /** A heartbeat: the server responds, but the run wrote nothing. Load its state. */
  async refresh() {
    this.lastMessageAt = performance.now();
    const before = this.overview?.state;
    const overview = await get("overview", { run: this.run }).catch(() => null);
    if (!overview) return;
    this.setOverview(overview);
    if (!this.paused && !(ENDED_STATES.has(overview.state) && overview.state === before))
      this.emit("tick", { overview, ...EMPTY_TICK });
  }

  setOverview(overview) {
    this.overview = overview;
    this.overviewAt = performance.now();
    this.emit("overview");
  }

  /** The connection failed. EventSource hides the reason, so find it with a plain request. */
  async failed() {
    this.close();
    this.broken = true;
    this.setConnection("reconnecting", this.sentence);
    const problem = await get("runs").then(
      () => null,
      (error) => error,
    );
    if (problem instanceof ApiError && problem.kind === "unauthorised") {
      this.setConnection("unauthorised", problem.message);
      return;
    }
    if (problem) this.setConnection("disconnected", problem.message);
    const wait = RETRY_MS[Math.min(this.tries, RETRY_MS.length - 1)];
    this.tries += 1;
    this.close();
    this.timer = setTimeout(() => this.open(), wait);
  }

  check() {
    if (this.source && performance.now() - this.lastMessageAt > SILENT_MS) this.failed();
    this.emit("clock");
  }

  setConnection(connection, sentence) {
    if (connection === this.connection && sentence === this.sentence) return;
    if (connection === "reconnecting" && this.connection === "disconnected") return; // a retry is not a change
    this.connection = connection;
    this.sentence = sentence;
    this.emit("connection");
  }

  emit(name, detail = null) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
