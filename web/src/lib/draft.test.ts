// @vitest-environment node
import { beforeEach, describe, expect, it, vi } from 'vitest'
import { committed, discard, edited, open, rebase, rewrite, stage } from './draft'

// A daemon whose policy in force is NPL, and which writes texts in capitals and other syntaxes.
let force = 'policy'
const asked: { path: string; body: Record<string, string> }[] = []
let meanwhile: (() => void) | undefined
vi.stubGlobal('fetch', async (url: string, init: { body?: string }) => {
  const path = url.replace('api/v1/', '')
  const body = JSON.parse(init.body ?? '{}') as Record<string, string>
  asked.push({ path, body })
  const happens = meanwhile
  meanwhile = undefined
  happens?.()
  const answers: Record<string, object> = {
    config: { name: 'policy.npl', syntax: 'npl', text: force },
    format: { text: body.text?.toUpperCase() },
    convert: { text: `${body.to}(${body.text})` },
    'config/stage': { ok: true },
  }
  return new Response(JSON.stringify(answers[path]), { headers: { 'Content-Type': 'application/json', ETag: `"${force}"` } })
})
const type = (text: string) => (edited.value = { ...edited.value!, text })

beforeEach(async () => {
  force = 'policy'
  await discard()
  asked.length = 0
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
    await stage()
    type('staged and more')
    force = 'staged'
    await committed('staged')
    expect(edited.value).toMatchObject({ text: 'staged and more', original: 'staged', base: '"staged"' })
    await committed('staged and more')
    expect(edited.value).toBeNull()
  })
  it('stays when another policy came into force', async () => {
    type('typed')
    force = 'other'
    await rebase()
    expect(edited.value).toMatchObject({ text: 'typed', original: 'other', base: '"other"' })
  })
})

it('is staged in the syntax of its file, whatever it was shown in', async () => {
  await rewrite('yaml')
  type('edited')
  expect(await stage()).toMatchObject({ ok: true, converted: true })
  expect(asked.at(-1)).toEqual({ path: 'config/stage', body: { text: 'npl(edited)' } })
  expect(edited.value).toMatchObject({ text: 'npl(edited)', syntax: 'npl' })
  asked.length = 0
  expect(await stage()).toMatchObject({ converted: false })
  expect(asked.map((a) => a.path)).toEqual(['config/stage'])
})
