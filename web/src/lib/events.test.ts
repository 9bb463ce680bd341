// @vitest-environment node
import { expect, it, vi } from 'vitest'

// Stream is an EventSource that says what a test has it say.
class Stream {
  static CLOSED = 2
  static all: Stream[] = []
  listeners = new Map<string, (e: object) => void>()
  constructor(readonly url: string) {
    Stream.all.push(this)
  }
  addEventListener(topic: string, call: (e: object) => void) {
    this.listeners.set(topic, call)
  }
  close() {}
  say(topic: string, lastEventId: string) {
    this.listeners.get(topic)!({ data: '{}', lastEventId })
  }
}
vi.stubGlobal('EventSource', Stream)
const { on, startEvents, stopEvents } = await import('./events')

it('reads again what was lost, and nothing else', async () => {
  const calls: string[] = []
  on('transitions', () => calls.push('transition'), () => calls.push('transitions again'))
  on('changes', () => calls.push('change'), () => calls.push('changes again'))
  startEvents()
  const now = () => Stream.all.at(-1)!
  const said = () => calls.splice(0)
  now().say('status', 'a-t5-c2')
  now().say('transitions', 'a-t6-c2')
  now().say('status', 'a-t6-c2')
  expect(said()).toEqual(['transition'])
  // Two were dropped for a page that was too slow.
  now().say('status', 'a-t8-c2')
  now().say('transitions', 'a-t10-c2')
  expect(said()).toEqual(['transitions again', 'transition', 'transitions again'])
  // Another page listens to more: a change fell between the two streams.
  const stop = on('decisions', () => undefined, () => calls.push('decisions again'))
  await Promise.resolve()
  expect(now().url).toContain('decisions')
  now().say('status', 'a-t10-c3-d100')
  now().say('decisions', 'a-t10-c3-d101')
  expect(said()).toEqual(['changes again'])
  // What nobody listened to was not lost.
  stop()
  await Promise.resolve()
  now().say('status', 'a-t10-c3')
  on('decisions', () => undefined, () => calls.push('decisions again'))
  await Promise.resolve()
  now().say('status', 'a-t10-c3-d500')
  expect(said()).toEqual([])
  // A daemon that was started anew counts from the beginning.
  now().say('status', 'b-t0-c0-d0')
  expect(said().toSorted()).toEqual(['changes again', 'decisions again', 'transitions again'])
  stopEvents()
})
