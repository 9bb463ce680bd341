import { get } from './api'
import { on } from './events'
import type { Answer, Decision, Ended, Flow, Flows } from './types'

// Row is a connection as the table shows it. A row is changed in place; the table
// draws from it once a frame, so that a burst of events costs one drawing.
export interface Row {
  id: string
  flow: Flow['flow']
  name: string
  nameFrom: string
  decision: Answer
  uplink: string
  process: string
  began: number // milliseconds since the epoch; 0 when it began before the daemon
  rtt: number
  retransmits: number
  up: number
  down: number
  upRate: number
  downRate: number
  pinned: string
  killed: boolean // by hand
  ended: number // when, 0 while it lives
  reason: string
  text: string // what a filter looks at, in lower case
  missed: number // how many lists in a row it was not in
}

// most bounds the rows; beyond it a few go at once: those that ended first, then the oldest.
const most = 20_000
const few = 100
// lingers is how long a row that has ended is shown.
const lingers = 4_000
const page = 1000
const pages = 20

export type Sort = 'age' | 'rate' | 'bytes' | 'rtt' | 'name' | 'rule' | 'uplink'

// Connections follows what the daemon follows: a list at first, then its events,
// and the counters of the busiest again and again, since those have no events.
export class Connections {
  readonly rows = new Map<string, Row>()
  total = 0
  listed = false // whether the daemon has told what there is
  dropped = 0
  changed = false
  private lags = 0 // the daemon's clock ahead of ours, in milliseconds
  private stops: (() => void)[] = []
  private timers: ReturnType<typeof setInterval>[] = []

  start(failed: (err: unknown) => void): void {
    const quietly = (work: Promise<void>) => void work.catch(failed)
    const again = () => quietly(this.list())
    this.stops = [on('decisions', (d) => this.decided(d), again), on('ended', (e) => this.gone(e), again)]
    quietly(this.list())
    this.timers = [
      setInterval(() => document.hidden || quietly(this.counters()), 2000),
      setInterval(() => document.hidden || quietly(this.list()), 60_000),
      setInterval(() => this.sweep(), 1000),
    ]
  }

  stop(): void {
    for (const stop of this.stops) stop()
    for (const timer of this.timers) clearInterval(timer)
  }

  now(): number {
    return Date.now() + this.lags
  }

  // list reads all connections, and forgets those that are not among them any more.
  async list(): Promise<void> {
    const seen = new Set<string>()
    const from = this.now()
    let total = 0
    let until = Infinity // the list goes from the oldest to those that began then
    for (let n = 0; n < pages; n++) {
      const got = await get<Flows>(`connections?sort=age&limit=${page}&offset=${n * page}`)
      for (const f of got.flows) {
        this.flow(f, got.now)
        seen.add(f.id)
      }
      total = got.total
      if (got.flows.length < page) break
      if (n === pages - 1) until = this.rows.get(got.flows.at(-1)!.id)?.began ?? 0
    }
    this.total = total
    this.listed = true
    // Rows shift between the pages while they are read, and there may be more than are
    // read: a list that is not whole has to miss a row twice.
    const whole = seen.size >= total
    for (const r of this.rows.values()) {
      if (seen.has(r.id) || r.ended > 0 || r.began >= Math.min(until, from - 5000)) continue
      if (whole || ++r.missed > 1) this.rows.delete(r.id)
    }
    this.changed = true
  }

  private async counters(): Promise<void> {
    for (const sort of ['rate', 'bytes']) {
      const got = await get<Flows>(`connections?sort=${sort}&limit=200`)
      for (const f of got.flows) this.flow(f, got.now)
      this.total = got.total
    }
  }

  flow(f: Flow, now: string): void {
    this.lags = Date.parse(now) - Date.now()
    const r = this.row(f.id, f.flow)
    r.began = f.age_seconds < 0 ? 0 : this.now() - f.age_seconds * 1000
    r.rtt = f.rtt_ms
    r.retransmits = f.retransmits
    r.up = f.bytes_up
    r.down = f.bytes_down
    r.upRate = f.up_rate
    r.downRate = f.down_rate
    r.killed = f.killed ?? false
    this.settle(r, f)
  }

  decided(d: Decision): void {
    const known = this.rows.has(d.id)
    const r = this.row(d.id, d.flow)
    if (!known) {
      r.began = Date.parse(d.time)
      this.total++
    }
    this.settle(r, { ...d, decision: d })
  }

  private settle(r: Row, from: { decision: Answer; name?: string; name_from?: string; uplink?: string; pinned?: boolean; pinned_route?: string }): void {
    r.decision = from.decision
    r.name = from.name ?? r.name
    r.nameFrom = from.name_from ?? r.nameFrom
    r.uplink = from.uplink ?? ''
    r.pinned = from.pinned ? (from.pinned_route ?? '') : ''
    r.text = [r.name, r.process, r.decision.rule ?? '', r.decision.route ?? '', r.uplink, r.flow.src, r.flow.dst, r.flow.proto].join(' ').toLowerCase()
    this.changed = true
  }

  private row(id: string, facts: Flow['flow']): Row {
    let r = this.rows.get(id)
    if (!r) {
      if (this.rows.size >= most) this.drop()
      r = {
        id, flow: facts, name: '', nameFrom: '', decision: { rule: null, action: '', target: null, route: null, why: '' }, uplink: '', process: '',
        began: 0, rtt: -1, retransmits: 0, up: 0, down: 0, upRate: 0, downRate: 0, pinned: '', killed: false, ended: 0, reason: '', text: '', missed: 0,
      }
      this.rows.set(id, r)
    }
    r.missed = 0
    r.flow = facts
    r.process = typeof facts.process === 'string' ? facts.process : ''
    if (typeof facts.rtt_ms === 'number') r.rtt = facts.rtt_ms
    return r
  }

  gone(e: Ended): void {
    const r = this.rows.get(e.id)
    if (!r || r.ended) return
    r.ended = Date.now()
    r.reason = e.reason ?? ''
    r.rtt = e.rtt_ms ?? r.rtt
    r.up = Math.max(r.up, e.bytes_up)
    r.down = Math.max(r.down, e.bytes_down)
    r.upRate = r.downRate = 0
    this.total--
    this.changed = true
  }

  private sweep(): void {
    for (const r of this.rows.values()) {
      if (r.ended && Date.now() - r.ended > lingers) {
        this.rows.delete(r.id)
        this.changed = true
      }
    }
  }

  private drop(): void {
    const first = (a: Row, b: Row) => (a.ended || Infinity) - (b.ended || Infinity) || a.began - b.began
    for (const r of [...this.rows.values()].sort(first).slice(0, few)) {
      this.rows.delete(r.id)
      this.dropped++
    }
  }
}

const orders: Record<Sort, (a: Row, b: Row) => number> = {
  age: (a, b) => b.began - a.began,
  rate: (a, b) => b.upRate + b.downRate - a.upRate - a.downRate,
  bytes: (a, b) => b.up + b.down - a.up - a.down,
  rtt: (a, b) => b.rtt - a.rtt,
  name: (a, b) => cmp(a.name || String(a.flow.dst), b.name || String(b.flow.dst)),
  rule: (a, b) => cmp(a.decision.rule ?? '', b.decision.rule ?? ''),
  uplink: (a, b) => cmp(a.uplink, b.uplink),
}
const cmp = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0)

// select is the rows that contain every word of match, in an order; those that are
// equal in it are ordered by age, so that rows don't jump without cause.
export function select(rows: Iterable<Row>, match: string, sort: Sort, reverse: boolean): Row[] {
  const words = match.toLowerCase().split(/\s+/).filter(Boolean)
  const out: Row[] = []
  for (const r of rows) if (words.every((w) => r.text.includes(w))) out.push(r)
  const order = orders[sort]
  const sign = reverse ? -1 : 1
  return out.sort((a, b) => sign * order(a, b) || b.began - a.began || cmp(a.id, b.id))
}
