// Places in a policy's text, and what is said of them.
import type { Diagnostic, Finding } from './types'

// worst is the order of findings: by how bad they are, then by line.
const ranks = { error: 0, warning: 1, hint: 2 }
export const worst = (a: Finding | Diagnostic, b: Finding | Diagnostic) => ranks[a.severity] - ranks[b.severity] || (a.line ?? 0) - (b.line ?? 0)

// placeOf is the line of a rule in a text that may have been edited since the daemon told
// it: the one told if the rule is named there, else the first that names one so, if any does.
export function placeOf(text: string, name: string, line: number): { from: number; to: number } | null {
  const lines = text.split('\n')
  const named = new RegExp(`^[^#]*\\b(rule\\s+|name:\\s*)["']?${name}(?![\\w-])`)
  const at = named.test(lines[line - 1] ?? '') ? line - 1 : lines.findIndex((l) => named.test(l))
  if (at < 0) return null
  const from = lines.slice(0, at).reduce((sum, l) => sum + l.length + 1, 0)
  return { from, to: from + lines[at]!.length }
}
