// @vitest-environment node
import { expect, it, vi } from 'vitest'

vi.stubGlobal('document', { documentElement: {} })
const { copyText } = await import('./parts')

it.each([
  ['where the clipboard may be written', async () => undefined, true, 'clipboard'],
  ['where it may not', () => Promise.reject(new DOMException('Write permission denied.', 'NotAllowedError')), true, 'selection'],
  ['where there is none', undefined, true, 'selection'],
  ['where nothing may be copied', undefined, false, 'copy.failed'],
])('copies %s', async (_, writeText, allowed, want) => {
  const how: string[] = []
  vi.stubGlobal('navigator', writeText && { clipboard: { writeText: (s: string) => writeText().then(() => how.push(`clipboard ${s}`)) } })
  const area = { value: '', select: () => undefined, remove: () => how.push('removed') }
  const place = (of: string) => ({ append: () => how.push(`in ${of}`) })
  vi.stubGlobal('document', {
    body: place('body'),
    querySelector: () => place('dialog'),
    createElement: () => area,
    execCommand: () => (allowed && how.push(`selection ${area.value}`), allowed),
  })
  const err = await copyText('text').then(() => '', (e: Error) => e.message)
  if (want === 'clipboard') expect(how).toEqual(['clipboard text'])
  else if (allowed) expect(how).toEqual(['in dialog', 'selection text', 'removed'])
  else expect([err, how]).toEqual([want, ['in dialog', 'removed']])
})
