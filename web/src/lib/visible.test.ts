// @vitest-environment node
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Fragment, h } from 'preact'
import { expect, it, vi } from 'vitest'
import { showHidden, visible } from './visible'

vi.stubGlobal('document', { documentElement: {} })

it.each([
  ['photo\u202egpj.exe', 'photo⟨U+202E⟩gpj.exe'],
  ['\u2066a\u2069\u200b\u00ad\ufeff', '⟨U+2066⟩a⟨U+2069⟩⟨U+200B⟩⟨U+00AD⟩⟨U+FEFF⟩'],
  ['a\u200db\u200c', 'a⟨U+200D⟩b⟨U+200C⟩'],
  ['a\u0000\u001b[31m\u{e0041}\u3164\ud800', 'a⟨U+0000⟩⟨U+001B⟩[31m⟨U+E0041⟩⟨U+3164⟩⟨U+D800⟩'],
  ['plain\n\ttext é 漢字', 'plain\n\ttext é 漢字'],
  ['می‌شود 👨‍👩‍👧', 'می‌شود 👨‍👩‍👧'],
])('%j is shown as %j', (text, want) => expect(visible(text)).toBe(want))

it('leaves the words and numbers of all languages as they are', async () => {
  const catalogues = join(import.meta.dirname, '../i18n')
  for (const name of readdirSync(catalogues).filter((n) => n.endsWith('.json'))) {
    for (const text of Object.values(JSON.parse(readFileSync(join(catalogues, name), 'utf8')) as Record<string, string>)) expect(visible(text)).toBe(text)
  }
  const { languages, useLanguage } = await import('./i18n')
  const f = await import('./format')
  for (const l of Object.keys(languages) as (keyof typeof languages)[]) {
    await useLanguage(l)
    const at = new Date('2026-01-02T03:04:05Z')
    for (const text of [f.number(-1234.5, 1), f.percent(-0.5), f.bytes(123456), f.rate(5e6), f.ms(12.5), f.duration(4000), f.ago(at, new Date('2026-01-05')), f.clock(at), f.dateTime(at), f.countdown(61)]) expect(visible(text)).toBe(text)
  }
})

it('holds for all that is drawn', () => {
  showHidden()
  const props = (v: { props: unknown }) => v.props as Record<string, unknown>
  const bad = 'a\u202eb'
  const good = 'a⟨U+202E⟩b'
  expect(props(h('bdi', { title: bad, 'aria-label': bad }, bad))).toMatchObject({ title: good, 'aria-label': good, children: good })
  expect(props(h('p', {}, ['x', [bad], 1, null])).children).toEqual(['x', [good], 1, null])
  expect(props(h(Fragment, {}, bad)).children).toBe(good)
  // What is edited is left alone, and so is what a component is given.
  expect(props(h('input', { value: bad })).value).toBe(bad)
  expect(props(h(() => null, { title: bad })).title).toBe(bad)
})
