// find is where a text has another, whatever its case, and which of those is next to from:
// after it, with step -1 before it, with 0 there or after it. It goes round.
export function find(text: string, want: string, from: number, step: number): { all: number[]; at: number } {
  const all = want ? [...text.matchAll(new RegExp(want.replace(/[^\w\s]/g, '\\$&'), 'gi'))].map((m) => m.index) : []
  const at = step < 0 ? all.findLastIndex((i) => i < from) : all.findIndex((i) => i >= from + step)
  return { all, at: at < 0 ? (step < 0 ? all.length - 1 : 0) : at }
}
