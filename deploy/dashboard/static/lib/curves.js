// Curves of one run, kept up to date: everything once, then only the newest stretch with each tick.

import { get } from "./api.js";

const NAMES_A_REQUEST = 24;
const ENOUGH = 4000; // points of one curve in the page: beyond, ask for all again and let the server thin them out
const STRETCH = { step: 20, time: 60 }; // how far back a tick's request goes (steps, s): readings may come a little late

export class Curves {
  /** `range`: {x: step|time, from, to}, the stretch that is shown. */
  constructor(run, range) {
    Object.assign(this, { run, range, known: new Map(), began: 0 });
    this.ending = new AbortController();
  }

  close() {
    this.ending.abort();
  }

  /** All points of these names. */
  async load(names) {
    this.known = new Map();
    await this.ask(names, { from: this.range.from, to: this.range.to }, (name, curve) => this.known.set(name, curve));
  }

  /** The newest points. A zoomed plot whose stretch lies in the past has no news. */
  async follow(names) {
    const newest = Math.max(...[...this.known.values()].map((curve) => curve.x.at(-1) ?? -Infinity));
    const most = Math.max(...[...this.known.values()].map((curve) => curve.x.length));
    if (!Number.isFinite(newest) || most > ENOUGH) return this.load(names);
    if (this.range.to) return undefined;
    const after = newest - STRETCH[this.range.x];
    return this.ask(names, { after: Math.max(after, this.range.from ?? after) }, (name, curve) =>
      this.extend(name, curve, after),
    );
  }

  extend(name, curve, after) {
    const old = this.known.get(name);
    if (!old) {
      this.known.set(name, curve);
      return;
    }
    let kept = old.x.length;
    while (kept && old.x[kept - 1] > after) kept -= 1;
    const whole = (was, now) => was.slice(0, kept).concat(now);
    this.known.set(name, {
      ...curve,
      x: whole(old.x, curve.x),
      y: whole(old.y, curve.y),
      last: curve.last ?? old.last,
    });
  }

  async ask(names, more, take) {
    for (let at = 0; at < names.length; at += NAMES_A_REQUEST) {
      const some = names.slice(at, at + NAMES_A_REQUEST).join(",");
      const answer = await get("curves", { run: this.run, names: some, x: this.range.x, ...more }, this.ending.signal);
      this.began = answer.began_at;
      for (const [name, curve] of Object.entries(answer.curves)) take(name, curve);
    }
  }
}
