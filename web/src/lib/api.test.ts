// @vitest-environment node
import { afterEach, beforeAll, expect, it, vi } from 'vitest'

vi.stubGlobal('document', { documentElement: {} })
const { ApiError, ended, get, login, logout, session, signedOut } = await import('./api')
const { failed, toast, toasts } = await import('./announce')
const { useLanguage } = await import('./i18n')

const answer = (status: number, body: object) => async () => new Response(JSON.stringify(body), { status, headers: { 'Content-Type': 'application/json' } })

beforeAll(() => useLanguage('ru'))
afterEach(() => {
  vi.useRealTimers()
  vi.unstubAllGlobals()
})

it.each([
  ['is not reached', async () => Promise.reject(new TypeError('Failed to fetch'))],
  ['breaks off', async () => new Response(new ReadableStream({ start: (c) => c.error(new TypeError('network error')) }))],
])('a daemon that %s is told in the language chosen', async (_, fetch) => {
  vi.stubGlobal('fetch', fetch)
  const err = await get('status').catch((e: unknown) => e)
  expect(err).toBeInstanceOf(ApiError)
  expect(err).toMatchObject({ status: 0, message: expect.stringMatching(/^netpolicyd не отвечает/) })
})

it('an answer that never comes is given up', async () => {
  const within: number[] = []
  vi.stubGlobal('AbortSignal', { timeout: (ms: number) => (within.push(ms), AbortSignal.abort()) })
  vi.stubGlobal('fetch', async (_: string, init: RequestInit) => (init.signal!.throwIfAborted(), new Response()))
  await expect(get('status')).rejects.toMatchObject({ status: 0 })
  expect(within).toEqual([30_000])
})

it('says of a session whether the daemon ended it', async () => {
  vi.stubGlobal('fetch', answer(401, { detail: 'no session' }))
  await get('status').catch(() => undefined)
  expect([signedOut.value, ended.value]).toEqual([true, false]) // there was none
  vi.stubGlobal('fetch', answer(200, { role: 'admin', by: 'cookie' }))
  await login('token')
  vi.stubGlobal('fetch', answer(401, { detail: 'the session has ended' }))
  await get('status').catch(() => undefined)
  expect([session.value, signedOut.value, ended.value]).toEqual([null, true, true])
  vi.stubGlobal('fetch', answer(200, { role: 'admin', by: 'cookie' }))
  await login('token')
  expect([signedOut.value, ended.value]).toEqual([false, false])
  await logout()
  expect([signedOut.value, ended.value]).toEqual([true, false])
})

it('a message that is shown already stays longer, and is not shown twice', () => {
  vi.useFakeTimers()
  failed(new Error('away'))
  vi.advanceTimersByTime(10_000)
  failed(new Error('away'))
  toast('ok', 'away')
  expect(toasts.value.map((x) => `${x.kind} ${x.text}`)).toEqual(['error away', 'ok away'])
  vi.advanceTimersByTime(14_000)
  expect(toasts.value.map((x) => x.kind)).toEqual(['error'])
  vi.advanceTimersByTime(1000)
  expect(toasts.value).toEqual([])
})
