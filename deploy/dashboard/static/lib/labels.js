// Labels of states and levels: a mark and words. Marks differ in shape, so colour is never the only sign.

const STATES = {
  starting: ["○", "starting"],
  running: ["●", "running"],
  waiting: ["◐", "waiting"],
  judging: ["◍", "drawing evaluation samples"],
  silent: ["▲", "does not answer"],
  stale: ["▲", "silent"],
  down: ["✕", "down"],
  dead: ["✕", "died"],
  finished: ["■", "finished"],
  stopped: ["■", "stopped"],
  empty: ["○", "nothing recorded yet"],
  unknown: ["?", "unknown"],
};

const LEVELS = { info: ["ℹ", "note"], warning: ["▲", "warning"], error: ["✕", "error"] };

/** [mark, words, class] of a state. */
export function stateLabel(name) {
  const [mark, words] = STATES[name] ?? STATES.unknown;
  return [mark, words, `is-${name in STATES ? name : "unknown"}`];
}

/** [mark, words, class] of a level. */
export function levelLabel(name) {
  const [mark, words] = LEVELS[name] ?? LEVELS.info;
  return [mark, words, `is-${name}`];
}
