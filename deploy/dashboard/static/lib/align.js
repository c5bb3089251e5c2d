// Merges curves with different x into one table for uPlot. null: not finite; undefined: the curve has no point at this x.

/**
 * Merge curves [{x, y}] with sorted x into {x, ys}. An x that occurs k times in a curve occurs k times in the result.
 * Cost O(total points · curves).
 */
export function align(curves) {
  if (curves.length === 1) return { x: curves[0].x, ys: [curves[0].y] };
  const at = curves.map(() => 0);
  const x = [];
  const ys = curves.map(() => []);
  for (;;) {
    let next = Infinity;
    for (let c = 0; c < curves.length; c += 1)
      if (at[c] < curves[c].x.length) next = Math.min(next, curves[c].x[at[c]]);
    if (next === Infinity) return { x, ys };
    x.push(next);
    for (let c = 0; c < curves.length; c += 1) {
      const has = at[c] < curves[c].x.length && curves[c].x[at[c]] === next;
      ys[c].push(has ? curves[c].y[at[c]] : undefined);
      if (has) at[c] += 1;
    }
  }
}

/** The newest finite value of a list, or null. */
export function last(values) {
  for (let i = values.length - 1; i >= 0; i -= 1) if (Number.isFinite(values[i])) return values[i];
  return null;
}
