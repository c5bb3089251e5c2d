// States in words and marks. A mark is a shape, so that no state is told by colour alone.

const STATES = {
  starting: ["○", "starting"],
  running: ["●", "running"],
  waiting: ["◐", "waiting"],
  judging: ["◍", "judging samples"],
  silent: ["▲", "does not answer"],
  stale: ["▲", "silent"],
  down: ["✕", "down"],
  dead: ["✕", "died"],
  finished: ["■", "finished"],
  stopped: ["■", "stopped"],
  empty: ["○", "nothing recorded yet"],
  unknown: ["?", "not known"],
};

const LEVELS = { info: ["ℹ", "note"], warning: ["▲", "warning"], error: ["✕", "error"] };

/** [mark, words, class] of a state. */
export function state(name) {
  const [mark, words] = STATES[name] ?? STATES.unknown;
  return [mark, words, `is-${name in STATES ? name : "unknown"}`];
}

/** [mark, words, class] of a level. */
export function level(name) {
  const [mark, words] = LEVELS[name] ?? LEVELS.info;
  return [mark, words, `is-${name}`];
}
