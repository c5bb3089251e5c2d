// One part of a view that loads a response and draws it; handles loading, errors and outdated responses.

import { get } from "./api.js";
import { put } from "./dom.js";
import { errorStatus, status } from "./status.js";

export class Panel {
  /** `request()` returns [path, params]; `draw(response)` shows it. `host` shows the state until the first response. */
  constructor(host, request, draw, intervalMs = 2000) {
    Object.assign(this, { host, request, draw, intervalMs, loadedAt: -Infinity, busy: false, loaded: false });
    this.abort = new AbortController();
    put(host, status("loading", "Loading …"));
  }

  /** Load now. The response to an earlier request is dropped. */
  async load() {
    this.abort.abort();
    this.abort = new AbortController();
    const { signal } = this.abort;
    this.busy = true;
    try {
      const [path, params] = this.request();
      const response = await get(path, params, signal);
      if (signal.aborted) return;
      if (!this.loaded) put(this.host);
      this.loaded = true;
      this.draw(response);
    } catch (error) {
      if (signal.aborted) return;
      if (error.name === "TypeError") throw error;
      if (!this.loaded || error.kind === "missing" || error.kind === "refused") {
        put(this.host, errorStatus(error));
        this.loaded = false;
      }
    } finally {
      if (!signal.aborted) {
        this.busy = false;
        this.loadedAt = performance.now();
      }
    }
  }

  /** New rows were recorded: load again if the last response is old enough. */
  tick() {
    if (!this.busy && performance.now() - this.loadedAt >= this.intervalMs) this.load();
  }

  close() {
    this.abort.abort();
  }
}
