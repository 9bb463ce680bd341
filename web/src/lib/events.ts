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

const listeners: { [T in Topic]: Set<(event: Topics[T]) => void> } = {
  decisions: new Set(),
  ended: new Set(),
  transitions: new Set(),
  changes: new Set(),
  logs: new Set(),
  status: new Set(),
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
// One stream serves all pages; it has the topics that somebody listens to.
export function on<T extends Topic>(topic: T, call: (event: Topics[T]) => void): () => void {
  listeners[topic].add(call)
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
      const data = JSON.parse((e as MessageEvent<string>).data)
      if (topic === 'status') status.value = data as Status
      for (const call of listeners[topic]) call(data as never)
    })
  }
}
