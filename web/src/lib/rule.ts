import type { Facts, Syntax } from './types'

// A rule that is made from a connection: what it asks for, and what it does.
export interface Draft {
  name: string
  priority: number
  match: string // an expression of the language, the same in both syntaxes
  action: string
}

// word writes a value in an expression: bare where the language reads it as one
// word that means itself, in quotes where not. Nothing that a far host or a
// program is called can end the string.
export function word(value: string): string {
  if (/^[A-Za-z0-9_.:/-]+$/.test(value) && !/^(and|or|not|any|in|like)$/.test(value)) return value
  const escaped = value.replace(/[\\"\u0000-\u001f\u007f]/gu, (c) => (c === '\\' || c === '"' ? `\\${c}` : `\\u{${c.codePointAt(0)!.toString(16)}}`))
  return `"${escaped}"`
}

export interface Choice {
  id: 'name' | 'domain' | 'address' | 'process'
  expression: string
  value: string
}

const split = (address: unknown): [string, string] => {
  const text = String(address ?? '')
  const at = text.lastIndexOf(':')
  return at < 0 ? [text, ''] : [text.slice(0, at).replace(/^\[|\]$/g, ''), text.slice(at + 1)]
}

// choices is by what a rule could know connections of this kind again, the best first.
export function choices(flow: Facts, name: string): Choice[] {
  const out: Choice[] = []
  const [ip] = split(flow.dst)
  if (/^[a-z0-9_-]+(\.[a-z0-9_-]+)+$/i.test(name)) {
    out.push({ id: 'name', value: name, expression: `domain ${word(name)}` })
    const labels = name.split('.')
    if (labels.length > 2) {
      const parent = `.${labels.slice(1).join('.')}`
      out.push({ id: 'domain', value: parent, expression: `domain ${word(parent)}` })
    }
  }
  if (ip) out.push({ id: 'address', value: ip, expression: `dst.ip ${word(ip)}` })
  if (typeof flow.process === 'string' && flow.process) {
    out.push({ id: 'process', value: flow.process, expression: `process ${word(flow.process)}` })
  }
  return out
}

export function expression(choice: Choice, flow: Facts, withPort: boolean): string {
  const [, port] = split(flow.dst)
  const proto = typeof flow.proto === 'string' ? flow.proto : ''
  const parts = [choice.expression]
  if (withPort && port && (proto === 'tcp' || proto === 'udp')) parts.push(`proto ${proto}`, `port ${port}`)
  return parts.join(' and ')
}

// nameFor is a name for a rule about a value that no other rule has.
export function nameFor(value: string, taken: Iterable<string>): string {
  const names = new Set(taken)
  const stem = `for_${value.replace(/[^A-Za-z0-9]+/g, '_').replace(/^_|_$/g, '')}`.slice(0, 60).replace(/_$/, '')
  if (!names.has(stem)) return stem
  let n = 2
  while (names.has(`${stem}_${n}`)) n++
  return `${stem}_${n}`
}

// insert puts a rule into a policy's text, and says where its text then stands.
export function insert(text: string, syntax: Syntax, rule: Draft): { text: string; from: number; to: number } {
  return syntax === 'yaml' ? insertYAML(text, rule) : insertNPL(text, rule)
}

function insertNPL(text: string, r: Draft): { text: string; from: number; to: number } {
  const body = `rule ${r.name} priority ${r.priority} {\n  match ${r.match}\n  do ${r.action}\n}\n`
  // Before the first rule with its comments, so that it stands among the rules; else at the end.
  const first = /^(?:[ \t]*#.*\n)*[ \t]*rule\s/m.exec(text)
  const at = first ? first.index : text.length
  const before = at > 0 && text[at - 1] !== '\n' ? '\n\n' : ''
  const after = first ? '\n' : ''
  const from = at + before.length
  return { text: text.slice(0, at) + before + body + after + text.slice(at), from, to: from + body.length }
}

function insertYAML(text: string, r: Draft): { text: string; from: number; to: number } {
  const quoted = (s: string) => `'${s.replaceAll("'", "''")}'`
  const write = (indent: string) =>
    `${indent}- name: ${r.name}\n${indent}  priority: ${r.priority}\n${indent}  match: ${quoted(r.match)}\n${indent}  action: ${quoted(r.action)}\n`
  const eol = text.length > 0 && !text.endsWith('\n') ? '\n' : ''
  const key = /^rules:[ \t]*(\[\s*\][ \t]*)?(#.*)?(\n|$)/m.exec(text)
  if (!key) {
    const head = `${eol}rules:\n`
    const body = write('  ')
    const from = text.length + head.length
    return { text: text + head + body, from, to: from + body.length }
  }
  const head = `rules:${key[2] ? ` ${key[2]}` : ''}\n`
  const at = key.index + key[0].length
  const indent = /^(?:[ \t]*(?:#.*)?\n)*([ \t]*)- /.exec(text.slice(at))?.[1] ?? '  '
  const body = write(indent)
  const from = key.index + head.length
  return { text: text.slice(0, key.index) + head + body + text.slice(at), from, to: from + body.length }
}
