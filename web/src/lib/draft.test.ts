// @vitest-environment node
import { beforeEach, describe, expect, it, vi } from 'vitest'

// The modules look at the browser when they are loaded; that much of one is enough.
let leaving: ((e: { preventDefault: () => void }) => void) | undefined
vi.stubGlobal('addEventListener', (name: string, call: typeof leaving) => name === 'beforeunload' && (leaving = call))
vi.stubGlobal('EventSource', class { static CLOSED = 2; addEventListener(): void {} close(): void {} })
vi.stubGlobal('document', { documentElement: {} })

const { committed, discard, edit, edited, isDirty, open, rewrite, stage } = await import('./draft')
const { status } = await import('./events')
const { toasts } = await import('./announce')
type Status = NonNullable<typeof status.value>

// A daemon whose policy in force is NPL, and which writes texts in capitals and other syntaxes.
let force = 'policy'
let n = 1
let held: { etag: string; text: string; who: string; time: string } | null = null
const asked: { path: string; body: Record<string, string> }[] = []
let meanwhile: (() => void) | undefined
const questions: string[] = []
let replaces = true
vi.stubGlobal('confirm', (question: string) => questions.push(question) > 0 && replaces)
vi.stubGlobal('fetch', async (url: string, init: { method: string; body?: string; headers: Record<string, string> }) => {
  const path = url.replace('api/v1/', '')
  const body = JSON.parse(init.body ?? '{}') as Record<string, string>
  asked.push({ path: `${init.method} ${path}`, body })
  const happens = meanwhile
  meanwhile = undefined
  happens?.()
  const answer = (value: object, status = 200) =>
    new Response(JSON.stringify(value), { status, headers: { 'Content-Type': status < 400 ? 'application/json' : 'application/problem+json', ETag: `"${force}"` } })
  switch (asked.at(-1)!.path) {
    case 'GET config':
      return answer({ name: 'policy.npl', syntax: 'npl', text: force, n })
    case 'GET config/stage':
      return held ? answer(held) : answer({ detail: 'nothing is staged' }, 404)
    case 'POST config/stage':
      if (init.headers['If-Match'] !== `"${force}"`) return answer({ detail: 'another policy' }, 412)
      held = { etag: `"staged ${body.text}"`, text: body.text!, who: 'me', time: '2026-02-03T03:00:00Z' }
      return answer({ ok: true, ...held })
    default:
      return answer({ text: path === 'format' ? body.text!.toUpperCase() : `${body.to}(${body.text})` })
  }
})
const type = (text: string) => (edited.value = { ...edited.value!, text })
const byOther = (text: string) => (held = { etag: '"other"', text, who: 'other', time: '2026-02-03T03:00:00Z' })

beforeEach(async () => {
  force = 'policy'
  n = 1
  held = null
  replaces = true
  status.value = null
  await discard()
  asked.length = questions.length = 0
  toasts.value = []
})

describe('what was typed', () => {
  it('is not thrown away by the policy in force that comes late', async () => {
    meanwhile = () => type('typed')
    await open()
    expect(edited.value!.text).toBe('typed')
    await discard()
    expect(edited.value!.text).toBe('policy')
  })
  it('while the text is formatted is formatted, too', async () => {
    meanwhile = () => type('typed')
    await rewrite()
    expect(edited.value!.text).toBe('TYPED')
  })
  it('while the text is converted is converted, too', async () => {
    meanwhile = () => type('typed')
    await rewrite('yaml')
    expect(edited.value).toMatchObject({ text: 'yaml(typed)', syntax: 'yaml', own: 'npl' })
  })
  it('after staging stays when what was staged is committed', async () => {
    type('staged')
    const first = await stage()
    type('staged and more')
    force = 'staged'
    await committed(first!)
    expect(edited.value).toMatchObject({ text: 'staged and more', original: 'staged', base: '"staged"', over: false })
    await committed((await stage())!)
    expect(edited.value).toBeNull()
  })
  it('is compared with another policy that came into force, and says so', async () => {
    type('typed')
    await open()
    expect(edited.value!.over).toBeUndefined()
    force = 'other'
    n = 2
    await open()
    expect(edited.value).toMatchObject({ text: 'typed', original: 'other', base: '"other"', n: 2, over: true })
    expect(await stage()).toMatchObject({ ok: true })
    expect(edited.value!.over).toBe(false)
  })
  it('is over what somebody else has staged and one commits oneself', async () => {
    type('typed')
    const other = { ...byOther('theirs'), ok: true, base: '', diagnostics: [] }
    force = 'theirs'
    await committed(other)
    expect(edited.value).toMatchObject({ text: 'typed', original: 'theirs', over: true })
  })
  it('is staged at the second try when another policy came into force unseen', async () => {
    type('typed')
    force = 'other'
    expect(await stage()).toBeNull()
    expect(toasts.value).toMatchObject([{ kind: 'warning', text: 'change.rebased' }])
    expect(edited.value).toMatchObject({ text: 'typed', over: true })
    expect(await stage()).toMatchObject({ ok: true, text: 'typed' })
  })
  it('makes the browser ask before it leaves, and only that', () => {
    const asks = vi.fn()
    leaving!({ preventDefault: asks })
    expect(asks).not.toHaveBeenCalled()
    type('typed')
    leaving!({ preventDefault: asks })
    expect(asks).toHaveBeenCalledOnce()
  })
  it('is given back by undoing when another text is opened', async () => {
    type('typed')
    await edit('of the history')
    expect(edited.value).toMatchObject({ text: 'of the history', original: 'policy', select: { before: 'typed' } })
  })
})

describe('what was committed and waits', () => {
  const commit = async () => {
    type('new')
    const made = await stage()
    force = 'new'
    n = 2
    await committed(made!, n)
    await open()
    expect(isDirty(edited.value)).toBe(false)
  }
  it('is edited again when it is taken back', async () => {
    await commit()
    force = 'policy'
    n = 1
    asked.length = 0
    status.value = { reverted: { n: 7 } } as Status
    expect(asked).toEqual([])
    status.value = { reverted: { n: 2 } } as Status
    await vi.waitFor(() => expect(edited.value).toMatchObject({ text: 'new', original: 'policy', base: '"policy"' }))
  })
  it('does not come in the way of what was typed since', async () => {
    await commit()
    type('other')
    asked.length = 0
    status.value = { reverted: { n: 2 } } as Status
    expect(asked).toEqual([])
    expect(edited.value!.text).toBe('other')
  })
})

describe('what somebody else has staged', () => {
  it('is replaced by who says so', async () => {
    byOther('theirs')
    type('mine')
    replaces = false
    expect(await stage()).toBeNull()
    expect(held!.text).toBe('theirs')
    replaces = true
    await stage()
    expect(held!.text).toBe('mine')
    expect(questions).toHaveLength(2)
  })
  it('is not what was staged from here, nor the same text', async () => {
    type('mine')
    await stage()
    type('mine, better')
    await stage()
    byOther('mine, the best')
    type('mine, the best')
    await stage()
    expect(questions).toEqual([])
  })
})

it('is staged in the syntax of its file, whatever it was shown in', async () => {
  await rewrite('yaml')
  type('edited')
  expect(await stage()).toMatchObject({ ok: true })
  expect(toasts.value).toMatchObject([{ kind: 'ok', text: 'policy.converted' }])
  expect(asked.at(-1)).toEqual({ path: 'POST config/stage', body: { text: 'npl(edited)' } })
  expect(edited.value).toMatchObject({ text: 'npl(edited)', syntax: 'npl' })
  asked.length = 0
  await stage()
  expect(asked.map((a) => a.path)).toEqual(['GET config/stage', 'POST config/stage'])
})
