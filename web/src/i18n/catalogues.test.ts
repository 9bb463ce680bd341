import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'

const here = import.meta.dirname
const load = (name: string): Record<string, string> => JSON.parse(readFileSync(join(here, `${name}.json`), 'utf8'))
const en = load('en')
const others = ['id', 'zh-CN', 'fa', 'ru']

const forms = /\.(zero|one|two|few|many|other)$/
const stem = (key: string) => key.replace(forms, '')
const plurals = new Set(Object.keys(en).filter((k) => k.endsWith('.other')).map(stem))
const isPlural = (key: string) => forms.test(key) && plurals.has(stem(key))
const places = (message: string) => [...message.matchAll(/\{(\w+)\}/g)].map((m) => m[1]).sort()

// sources is all code that can name a key.
function sources(dir = join(here, '..')): string {
  return readdirSync(dir, { withFileTypes: true })
    .map((e) => (e.isDirectory() ? sources(join(dir, e.name)) : /\.tsx?$/.test(e.name) && !e.name.includes('.test.') ? readFileSync(join(dir, e.name), 'utf8') : ''))
    .join('\n')
}

describe.each(others)('%s', (name) => {
  const catalogue = load(name)
  it('has the keys of English, and no others', () => {
    const single = (c: object) => Object.keys(c).filter((k) => !isPlural(k)).sort()
    expect(single(catalogue)).toEqual(single(en))
  })
  it('has the plural forms that its language asks for', () => {
    const want = new Intl.PluralRules(name).resolvedOptions().pluralCategories
    for (const p of plurals) {
      const have = Object.keys(catalogue).filter((k) => isPlural(k) && stem(k) === p).map((k) => k.slice(p.length + 1))
      expect([...have].sort(), p).toEqual([...want].sort())
    }
  })
  it('keeps the places of the messages', () => {
    for (const [key, message] of Object.entries(catalogue)) {
      const english = en[key] ?? en[`${stem(key)}.other`]!
      expect(places(message), key).toEqual(places(english))
    }
  })
  it('is translated', () => {
    // Words that are the same in the other language: names and abbreviations.
    const same = Object.keys(en).filter((k) => /[a-z]{4}/i.test(en[k]!) && catalogue[k] === en[k])
    expect(same.length, same.join(' ')).toBeLessThan(16)
  })
})

describe('the keys of English', () => {
  const code = sources() + sources(join(here, '../../page'))
  // Keys are written out, or made of a stem and a value that the daemon gives.
  const made = [...code.matchAll(/[`'](\w[\w.]*)\.\$\{/g)].map((m) => `${m[1]}.`)
  it('are all used', () => {
    const unused = Object.keys(en).filter((k) => {
      const key = isPlural(k) ? stem(k) : k
      return !new RegExp(`['"\`]${key.replaceAll('.', '\\.')}['"\`]`).test(code) && !made.some((m) => key.startsWith(m))
    })
    expect(unused).toEqual([])
  })
  it('with a number of things have plural forms', () => {
    // The number of a policy is no number of things, and units are the same for one and many.
    const numbered = Object.keys(en).filter((k) => !isPlural(k) && en[k]!.replace(/policy \{n\}|\{n\} (h|min)$/i, '').includes('{n}'))
    expect(numbered).toEqual([])
  })
  it('are sorted', () => {
    expect(Object.keys(en)).toEqual(Object.keys(en).toSorted())
  })
})
