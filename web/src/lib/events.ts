import { signal } from '@preact/signals'
import { resume } from './api'
import type { Decision, Ended, LogLine, PolicyEvent, Status, Transition } from './types'

interface Topics {
  decisions: Decision
  ended: Ended
  transitions: Transition
  changes: PolicyEvent
  logs: LogLine
  status: Status
}
type Topic = keyof Topics

// status is the daemon's, as of the last second; connected whether it still comes.
export const status = signal<Status | null>(null)
export const connected = signal(false)

// Each has, beside what is called for an event, what reads again where some were lost.
const listeners: { [T in Topic]: Map<(event: Topics[T]) => void, (() => void) | undefined> } = {
  decisions: new Map(),
  ended: new Map(),
  transitions: new Map(),
  changes: new Map(),
  logs: new Map(),
  status: new Map(),
}
const always: Topic[] = ['status', 'changes', 'transitions']

let source: EventSource | null = null
let open = ''
let again: ReturnType<typeof setTimeout> | undefined
// The daemon tells its status each second. When nothing has come for longer than
// silence, in ms, it is asked anew: a connection that stands still gives no error.
const silence = 6000
let heard = 0
let watch: ReturnType<typeof setInterval> | undefined

// on calls back for each event of a topic until the function it returns is called.
// One stream serves all pages; it has the topics that somebody listens to. Where events
// of the topic were lost again is called, to read what they have told.
export function on<T extends Topic>(topic: T, call: (event: Topics[T]) => void, again?: () => void): () => void {
  listeners[topic].set(call, again)
  queueMicrotask(adjust)
  return () => {
    listeners[topic].delete(call)
    queueMicrotask(adjust)
  }
}

let running = false
export function startEvents(): void {
  running = true
  watch = setInterval(() => {
    if (!source || Date.now() - heard < silence) return
    connected.value = false
    connect()
  }, 1000)
  adjust()
}
export function stopEvents(): void {
  running = false
  clearInterval(watch)
  adjust()
}

// places is how far each topic was read in this run of the daemon. An event's id has them
// all, as run-t12-c3, its own counted: what lies between two ids is lost, whether the
// daemon dropped it, or it fell between a stream and the next.
const topicOf: Record<string, Topic> = { t: 'transitions', c: 'changes', d: 'decisions', e: 'ended', l: 'logs' }
const places = new Map<Topic, number>()
let run = ''

function follow(id: string, of: string): void {
  const [now = '', ...parts] = id.split('-')
  const lost = new Set<Topic>(run && now !== run ? (Object.keys(listeners) as Topic[]) : [])
  if (now !== run) places.clear()
  run = now
  for (const part of parts) {
    const topic = topicOf[part[0] ?? '']
    const place = Number(part.slice(1))
    if (!topic) continue
    if (place > (places.get(topic) ?? place) + (topic === of ? 1 : 0)) lost.add(topic)
    places.set(topic, place)
  }
  const calls = new Set([...lost].flatMap((topic) => [...listeners[topic].values()]))
  for (const again of calls) again?.()
}

function adjust(): void {
  const topics = (Object.keys(listeners) as Topic[]).filter((t) => always.includes(t) || listeners[t].size > 0)
  const want = running ? topics.join(',') : ''
  if (want === open) return
  open = want
  connect()
}

function connect(): void {
  clearTimeout(again)
  source?.close()
  source = null
  if (!open) return
  const s = new EventSource(`api/v1/events?topics=${open}`)
  source = s
  heard = Date.now()
  for (const topic of places.keys()) if (!open.split(',').includes(topic)) places.delete(topic)
  s.onopen = () => (connected.value = true)
  s.onerror = () => {
    connected.value = false
    // A browser gives up for good when the answer is an error: then ask why, and try later.
    if (s.readyState === EventSource.CLOSED && source === s) {
      again = setTimeout(() => {
        void resume().catch(() => undefined)
        connect()
      }, 2000)
    }
  }
  for (const topic of open.split(',') as Topic[]) {
    s.addEventListener(topic, (e) => {
      heard = Date.now()
      connected.value = true
      const { data, lastEventId } = e as MessageEvent<string>
      const event = JSON.parse(data)
      if (topic === 'status') status.value = event as Status
      for (const call of listeners[topic].keys()) call(event as never)
      follow(lastEventId, topic)
    })
  }
}
