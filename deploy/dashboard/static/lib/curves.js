// The curves of one run: loaded once, then extended by the newest points with each tick.

import { get } from "./api.js";

const NAMES_PER_REQUEST = 24;
const MAX_POINTS = 4000; // of one curve in the page; beyond, reload all and let the server decimate them
const OVERLAP = { step: 20, time: 60 }; // steps or seconds requested again with each tick, since rows may arrive late

export class Curves {
  /** `range`: {x: one of AXES, from, to}, the range shown. */
  constructor(run, range) {
    Object.assign(this, { run, range, byName: new Map(), began: 0 });
    this.abort = new AbortController();
  }

  close() {
    this.abort.abort();
  }

  /** Load all points of these curves. */
  async load(names) {
    this.byName = new Map();
    const { from, to } = this.range;
    await this.request(names, { from, to }, (name, curve) => this.byName.set(name, curve));
  }

  /** Load the newest points. A range that ends in the past has none. */
  async follow(names) {
    const newest = Math.max(...[...this.byName.values()].map((curve) => curve.x.at(-1) ?? -Infinity));
    const longest = Math.max(...[...this.byName.values()].map((curve) => curve.x.length));
    if (!Number.isFinite(newest) || longest > MAX_POINTS || !(this.range.x in OVERLAP)) return this.load(names);
    if (this.range.to) return undefined;
    const after = newest - OVERLAP[this.range.x];
    return this.request(names, { after: Math.max(after, this.range.from ?? after) }, (name, curve) =>
      this.extend(name, curve, after),
    );
  }

  extend(name, curve, after) {
    const old = this.byName.get(name);
    if (!old) {
      this.byName.set(name, curve);
      return;
    }
    let kept = old.x.length;
    while (kept && old.x[kept - 1] > after) kept -= 1;
    const joined = (before, added) => before.slice(0, kept).concat(added);
    this.byName.set(name, {
      ...curve,
      x: joined(old.x, curve.x),
      y: joined(old.y, curve.y),
    });
  }

  async request(names, range, store) {
    for (let at = 0; at < names.length; at += NAMES_PER_REQUEST) {
      const batch = names.slice(at, at + NAMES_PER_REQUEST).join(",");
      const params = { run: this.run, names: batch, x: this.range.x, ...range };
      const response = await get("curves", params, this.abort.signal);
      this.began = response.began_at;
      for (const [name, curve] of Object.entries(response.curves)) store(name, curve);
    }
  }
}
