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

// split parts an endpoint as a flow says it: 192.0.2.1:443 and [2001:db8::1]:443 have
// a port; what has none, as an address of ICMPv6, is whole, colons and all.
export function split(endpoint: unknown): [address: string, port: string] {
  const text = String(endpoint ?? '')
  const [, v6, v4, port] = /^(?:\[(.*)\]|([^:]*)):(\d+)$/.exec(text) ?? []
  return port === undefined ? [text.replace(/^\[|\]$/g, ''), ''] : [v6 ?? v4!, port]
}

// ends is from where to where a flow goes. What was refused before it began has no
// address of its own.
export const ends = (flow: Record<string, unknown>) => `${flow.src ?? '?'} → ${flow.dst}`

// mostNames bounds the names that are offered: an address can have dozens in DNS.
const mostNames = 8
const isName = (name: unknown): name is string => typeof name === 'string' && /^[a-z0-9_-]+(\.[a-z0-9_-]+)+$/i.test(name)

// parentOf is the domain that a name is in, unless that is a country's own, as co.uk.
function parentOf(name: string): string[] {
  const parent = name.split('.').slice(1)
  return parent.length > 1 && !/^[a-z]{1,3}\.[a-z]{2}$/i.test(parent.join('.')) ? [`.${parent.join('.')}`] : []
}

// choices is by what a rule could know connections of this kind again, the best first.
// A connection that is known by several names of DNS can be known again by each of them.
export function choices(flow: Facts, name: string): Choice[] {
  const names = [...new Set([name, ...(Array.isArray(flow.dns) ? flow.dns : [])].filter(isName))].slice(0, mostNames)
  const [ip] = split(flow.dst)
  const out: Choice[] = [
    ...names.map((value) => ({ id: 'name' as const, value, expression: `domain ${word(value)}` })),
    ...[...new Set(names.flatMap(parentOf))].map((value) => ({ id: 'domain' as const, value, expression: `domain ${word(value)}` })),
  ]
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
  const values = [`name: ${r.name}`, `priority: ${r.priority}`, `match: ${quoted(r.match)}`, `action: ${quoted(r.action)}`]
  const block = (indent: string) => `${indent}- ${values.join(`\n${indent}  `)}\n`
  const flow = `{${values.join(', ')}}`
  // put takes what stands from at to end away, and writes body between before and after.
  const put = (at: number, end: number, before: string, body: string, after = '') => {
    const from = at + before.length
    return { text: text.slice(0, at) + before + body + after + text.slice(end), from, to: from + body.length }
  }
  // A text whose root is in braces has its list in brackets.
  const root = /^(?:[ \t]*(?:#.*)?\n|---.*\n)*[ \t]*\{/.exec(text)?.[0].length ?? 0
  const key = (root ? /(?<=[{,\s])(["']?)rules\1[ \t]*:/g : /^(["']?)rules\1[ \t]*:/gm).exec(text)
  if (root && !key) return put(root, root, 'rules: [', flow, '], ')
  if (!key) return put(text.length, text.length, `${text.length > 0 && !text.endsWith('\n') ? '\n' : ''}rules:\n`, block('  '))
  const end = key.index + key[0].length
  const list = /^(?:\s|#.*\n)*\[[ \t]*(\]?)/.exec(text.slice(end))
  if (list && (root || !list[1])) return put(end + list[0].length - list[1]!.length, end + list[0].length - list[1]!.length, '', flow, list[1] ? '' : ', ')
  const at = end + (list?.[0].length ?? 0)
  const rest = /^[ \t]*(#.*)?(?:\n|$)/.exec(text.slice(at)) ?? ['']
  const indent = /^(?:[ \t]*(?:#.*)?\n)*([ \t]*)- /.exec(text.slice(at + rest[0].length))?.[1] ?? '  '
  return put(end, at + rest[0].length, `${rest[1] ? ` ${rest[1]}` : ''}\n`, block(indent))
}
