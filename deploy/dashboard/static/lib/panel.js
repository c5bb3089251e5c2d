// One part of a view that asks the server and shows the answer: keeps loading, errors and old answers apart.

import { get } from "./api.js";
import { put } from "./dom.js";
import { failure, status } from "./status.js";

export class Panel {
  /** `ask()` gives [path, params]; `show(answer)` draws it. `host` shows the state in words until there is an answer. */
  constructor(host, ask, show, everyMs = 2000) {
    Object.assign(this, { host, ask, draw: show, everyMs, loadedAt: -Infinity, busy: false, answered: false });
    this.ending = new AbortController();
    put(host, status("loading", "Loading …"));
  }

  /** Ask now. An answer to an older question is dropped. */
  async load() {
    this.ending.abort();
    this.ending = new AbortController();
    const { signal } = this.ending;
    this.busy = true;
    try {
      const [path, params] = this.ask();
      const answer = await get(path, params, signal);
      if (signal.aborted) return;
      if (!this.answered) put(this.host);
      this.answered = true;
      this.draw(answer);
    } catch (error) {
      if (signal.aborted) return;
      if (error.name === "TypeError") throw error;
      if (!this.answered || error.kind === "missing" || error.kind === "refused") {
        put(this.host, failure(error));
        this.answered = false;
      }
    } finally {
      if (!signal.aborted) {
        this.busy = false;
        this.loadedAt = performance.now();
      }
    }
  }

  /** Something new was recorded: ask again if the last answer is old enough. */
  tick() {
    if (!this.busy && performance.now() - this.loadedAt >= this.everyMs) this.load();
  }

  close() {
    this.ending.abort();
  }
}
