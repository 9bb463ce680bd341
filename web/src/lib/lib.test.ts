// @vitest-environment node
import { beforeAll, describe, expect, it, vi } from 'vitest'

// The modules look at the browser when they are loaded; that much of one is enough.
vi.stubGlobal('location', { hash: '' })
vi.stubGlobal('addEventListener', () => undefined)
vi.stubGlobal('document', { hidden: false, documentElement: {} })
vi.stubGlobal('EventSource', class { static CLOSED = 2; addEventListener(): void {} close(): void {} })

const { fill, preferred } = await import('./i18n')
const { bytes, countdown, duration, ms, rate } = await import('./format')
const { parse, link } = await import('./router')
const { Connections, select } = await import('./connections')
const { choices, ends, expression, insert, nameFor, split, word } = await import('./rule')
const { shift, windowOf } = await import('../ui/window')
const { parseDiff } = await import('../ui/diff')
const { pathOf, ticksTo } = await import('../ui/chart')

describe('languages', () => {
  it('takes what was chosen, then what the browser asks for, then English', () => {
    expect(preferred('ru', ['de'])).toBe('ru')
    expect(preferred(null, ['de-CH', 'zh-TW', 'id'])).toBe('zh-CN')
    expect(preferred('xx', ['FA-IR'])).toBe('fa')
    expect(preferred(null, ['de'])).toBe('en')
  })
  it('fills places, and leaves unknown ones', () => {
    expect(fill('{a} of {b}', { a: 1 })).toBe('1 of {b}')
    expect(fill('{a}', { a: '{a}' })).toBe('{a}')
  })
})

describe('numbers', () => {
  it.each([
    [0, '0B'],
    [999, '999B'],
    [1000, '1 kB'],
    [1536, '1.5 kB'],
    [999_600, '1 MB'],
    [123_456_789, '123 MB'],
    [5e12, '5 TB'],
  ])('%d bytes are %s', (n, want) => expect(bytes(n)).toBe(want))
  it('has rates, times and countdowns', () => {
    expect(rate(2500)).toBe('2.5 kB/s')
    expect(ms(0.05)).toBe('0.05 ms')
    expect(ms(123.4)).toBe('123 ms')
    expect(duration(59)).toBe('59s')
    expect(duration(3700)).toBe('1h')
    expect(countdown(89.2)).toBe('1:30')
    expect(countdown(-1)).toBe('0:00')
  })
})

it('reads places and writes them', () => {
  const p = parse(link('explain', { flow: 'tcp a > b&c=d' }))
  expect(p.page).toBe('explain')
  expect(p.params.get('flow')).toBe('tcp a > b&c=d')
  expect(parse('').page).toBe('')
})

describe('the window of a table', () => {
  it.each([
    [0, 600, 10_000, 0, 26],
    [340_000, 600, 10_000, 9992, 10_000],
    [1_000_000, 600, 10, 10, 10],
    [0, 600, 0, 0, 0],
    [3400, 680, 10_000, 92, 128],
  ])('at %d of %d px with %d rows', (top, height, count, first, end) => {
    expect(windowOf(top, height, 34, count)).toEqual({ first, end })
  })
})

it.each([
  ['new ones above', 'abcdef', 'xyabcdef', 2],
  ['some gone above', 'abcdef', 'bcdef', -1],
  ['new ones below', 'abcdef', 'abcdefxy', 0],
  ['one that overtakes', 'abcdef', 'dabcef', 1],
  ['others in view gone', 'abcdef', 'xabf', 1],
  ['all gone', 'abcdef', 'x', 0],
])('rows in view are held where they were: %s', (_, before, now, want) => {
  expect(shift([...before], [...now], 1, 4)).toBe(want)
})

describe('connections', () => {
  const flow = (id: number, more: object = {}) => ({
    id: String(id),
    flow: { proto: 'tcp', src: '10.0.0.1:1', dst: `203.0.113.${id}:443`, process: id === 2 ? 'curl' : null },
    name: `h${id}.example`,
    decision: { rule: id % 2 ? 'odd' : null, action: 'route', target: 'w', route: 'w', why: 'y' },
    uplink: 'w', source: 'conntrack', age_seconds: id, rtt_ms: id * 10, retransmits: 0, bytes_up: id, bytes_down: 0, up_rate: 0, down_rate: 0,
    ...more,
  })
  const at = '2026-01-01T00:00:00Z'
  const model = new Connections()
  beforeAll(() => {
    for (const id of [1, 2, 3]) model.flow(flow(id), at)
  })
  const ids = (match: string, sort: 'age' | 'bytes' | 'rtt' | 'name', reverse = false) => select(model.rows.values(), match, sort, reverse).map((r) => r.id)

  it('is ordered and filtered', () => {
    expect(ids('', 'age')).toEqual(['1', '2', '3'])
    expect(ids('', 'rtt')).toEqual(['3', '2', '1'])
    expect(ids('', 'rtt', true)).toEqual(['1', '2', '3'])
    expect(ids('ODD h1', 'age')).toEqual(['1'])
    expect(ids('curl', 'age')).toEqual(['2'])
  })
  it('follows events', () => {
    model.decided({ ...flow(4).decision, id: '4', time: at, event: 'open', mode: 'enforce', policy: 'p', flow: flow(4).flow, name: 'new.example', uplink: 'x' })
    expect(model.rows.get('4')).toMatchObject({ name: 'new.example', uplink: 'x', ended: 0 })
    // A record without a name does not take away one that is known.
    model.decided({ ...flow(4).decision, id: '4', time: at, event: 'facts', mode: 'enforce', policy: 'p', flow: flow(4).flow })
    expect(model.rows.get('4')!.name).toBe('new.example')
    expect(model.rows.get('4')!.rtt).toBe(-1)
    model.decided({ ...flow(4).decision, id: '4', time: at, event: 'facts', mode: 'enforce', policy: 'p', flow: { ...flow(4).flow, rtt_ms: 12.5 } })
    expect(model.rows.get('4')!.rtt).toBe(12.5)
    model.gone({ id: '4', time: at, bytes_up: 7, bytes_down: 8, rtt_ms: 13, reason: 'closed' })
    expect(model.rows.get('4')).toMatchObject({ up: 7, down: 8, rtt: 13, reason: 'closed' })
    expect(model.rows.get('4')!.ended).toBeGreaterThan(0)
  })
  it('keeps a bounded number of rows: what has ended goes first, then the oldest', () => {
    const m = new Connections()
    for (let id = 1; id <= 20_000; id++) m.flow(flow(id), at)
    for (const id of ['7', '5']) m.gone({ id, time: at, bytes_up: 0, bytes_down: 0 })
    m.rows.get('5')!.ended-- // it was the first
    m.flow(flow(0), at)
    expect([m.rows.size, m.dropped]).toEqual([19_901, 100])
    // The age of each is its number.
    expect(['0', '1', '5', '7', '6', '19902', '19903', '20000'].filter((id) => m.rows.has(id))).toEqual(['0', '1', '6', '19902'])
  })
  it('forgets what two lists in a row have not, whole or not', async () => {
    let have = [1, 2, 3]
    let total = 3
    vi.stubGlobal('fetch', async () => new Response(JSON.stringify({ now: at, total, matched: total, flows: have.map((id) => flow(id, { age_seconds: 100 })) }), { headers: { 'Content-Type': 'application/json' } }))
    const m = new Connections()
    await m.list()
    have = [1, 2]
    await m.list()
    expect([...m.rows.keys()]).toEqual(['1', '2', '3']) // the list had three, and showed two
    m.flow(flow(3, { age_seconds: 100 }), at)
    await m.list()
    expect(m.rows.has('3')).toBe(true)
    await m.list()
    expect([...m.rows.keys()]).toEqual(['1', '2'])
    have = [1]
    total = 1
    await m.list()
    expect([...m.rows.keys()]).toEqual(['1'])
  })
})

describe('a rule from a connection', () => {
  const facts = { proto: 'tcp', src: '10.0.0.1:5', dst: '[2001:db8::1]:443', process: 'a "b" \\ {c}' }
  it('knows it again by name, domain, address or process', () => {
    expect(choices(facts, 'us01.zoom.us').map((c) => c.expression)).toEqual(['domain us01.zoom.us', 'domain .zoom.us', 'dst.ip 2001:db8::1', 'process "a \\"b\\" \\\\ {c}"'])
    // Of several names of DNS each is one to match by; what is no name is none.
    expect(choices({ ...facts, process: null, dns: ['a.b.example', 'c.b.example', '<b>'] }, 'a.b.example,c.b.example').map((c) => c.expression)).toEqual([
      'domain a.b.example', 'domain c.b.example', 'domain .b.example', 'dst.ip 2001:db8::1',
    ])
    expect(choices({ ...facts, process: null }, 'www.foo.co.uk').map((c) => c.value)).toEqual(['www.foo.co.uk', '.foo.co.uk', '2001:db8::1'])
    expect(choices({ ...facts, process: null }, 'foo.co.uk').map((c) => c.value)).toEqual(['foo.co.uk', '2001:db8::1'])
    expect(choices({ ...facts, process: null }, '<img src=x>.example').map((c) => c.id)).toEqual(['address'])
  })
  it.each([
    ['[2001:db8::1]:443', '2001:db8::1', '443'],
    ['192.0.2.1:80', '192.0.2.1', '80'],
    // ICMP has no ports, and its addresses no brackets.
    ['2001:db8:cafe::41', '2001:db8:cafe::41', ''],
    ['2001:db8::1:41', '2001:db8::1:41', ''],
    ['192.0.2.1', '192.0.2.1', ''],
    [null, '', ''],
  ])('splits %s', (endpoint, ip, port) => {
    expect(split(endpoint)).toEqual([ip, port])
    expect(choices({ proto: 'icmpv6', dst: endpoint }, '').map((c) => c.value)).toEqual(ip ? [ip] : [])
  })
  it('says from where to where', () => {
    expect(ends({ proto: 'tcp', src: '10.0.0.5:1', dst: '1.2.3.4:2' })).toBe('10.0.0.5:1 → 1.2.3.4:2')
    expect(ends({ proto: 'tcp', dst: '1.2.3.4:2' })).toBe('? → 1.2.3.4:2')
  })
  it('asks for protocol and port', () => {
    expect(expression(choices(facts, '')[0]!, facts, true)).toBe('dst.ip 2001:db8::1 and proto tcp and port 443')
    expect(expression(choices(facts, '')[0]!, { ...facts, proto: 'icmp' }, true)).toBe('dst.ip 2001:db8::1')
  })
  it('has a name of its own', () => {
    expect(nameFor('.zoom.us', [])).toBe('for_zoom_us')
    expect(nameFor('.zoom.us', ['for_zoom_us', 'for_zoom_us_2'])).toBe('for_zoom_us_3')
    expect(nameFor('x'.repeat(300), [])).toHaveLength(60)
  })
  it('ends no string early', () => {
    expect(word('a"\n}')).toBe('"a\\"\\u{a}}"')
    expect(word('and')).toBe('"and"')
  })
  const rule = { name: 'r', priority: 7, match: "process \"it's\"", action: 'route w' }
  it('goes into NPL before the first rule and its comment', () => {
    const text = 'policy 1\nroute w via main\n\n# about a\nrule a { match any; do block }\n'
    const got = insert(text, 'npl', rule)
    expect(got.text).toBe('policy 1\nroute w via main\n\nrule r priority 7 {\n  match process "it\'s"\n  do route w\n}\n\n# about a\nrule a { match any; do block }\n')
    expect(got.text.slice(got.from, got.to)).toBe('rule r priority 7 {\n  match process "it\'s"\n  do route w\n}\n')
    expect(insert('policy 1', 'npl', rule).text.startsWith('policy 1\n\nrule r')).toBe(true)
  })
  it.each([
    ['version: 1\nrules:\n- name: a\n', 'version: 1\nrules:\n- name: r\n  priority: 7\n'],
    ['rules:   # all\n    # first\n    - name: a\n', 'rules: # all\n    - name: r\n      priority: 7\n'],
    ['version: 1\nrules: []\ndefault: block', 'version: 1\nrules:\n  - name: r\n'],
    ['version: 1', 'version: 1\nrules:\n  - name: r\n'],
    ['"rules" :\n- name: a\n', '"rules" :\n- name: r\n'],
  ])('goes into YAML %j', (text, want) => {
    const got = insert(text, 'yaml', rule)
    expect(got.text).toContain(want)
    expect(got.text).toContain("match: 'process \"it''s\"'")
    expect(got.text.slice(got.from, got.to)).toMatch(/^ *- name: r\n/)
  })
})

it.each([
  ['version: 1\nrules: [{name: a}] # all\n', 'version: 1\nrules: [RULE, {name: a}] # all\n'],
  ['version: 1\nrules:\n  # all\n  [ {name: a} ]\n', 'version: 1\nrules:\n  # all\n  [ RULE, {name: a} ]\n'],
  ['# all\n{"version": 1, "rules": []}', '# all\n{"version": 1, "rules": [RULE]}'],
  ['{version: 1}', '{rules: [RULE], version: 1}'],
])('a rule goes into the list in brackets of %j, and there stays one list', (text, want) => {
  const got = insert(text, 'yaml', { name: 'r', priority: 7, match: "process \"it's\"", action: 'route w' })
  const rule = `{name: r, priority: 7, match: 'process "it''s"', action: 'route w'}`
  expect(got.text).toBe(want.replace('RULE', () => rule))
  expect(got.text.slice(got.from, got.to)).toBe(rule)
})

it('reads differences', () => {
  expect(parseDiff('--- a\n+++ b\n@@ -1 +1 @@\n-x\n+y\n z\n').map((l) => l.kind)).toEqual(['hunk', 'remove', 'add', 'same'])
})

describe('charts', () => {
  it('has round marks', () => {
    expect(ticksTo(10)).toEqual([0, 2.5, 5, 7.5, 10])
    expect(ticksTo(132)).toEqual([0, 50, 100, 150])
    expect(ticksTo(0.02)).toHaveLength(5)
  })
  it('leaves gaps where nothing was measured', () => {
    expect(pathOf([1, 2, null, 3, null, 4, 5], (i) => i, (v) => v)).toBe('M0.0 1.0L1.0 2.0M3.0 3.0h0M5.0 4.0L6.0 5.0')
  })
})
