import { signal } from '@preact/signals'
import type en from '../i18n/en.json'

export type Key = keyof typeof en
// Keys that come in plural forms are written without their ending: t.n('flows', 3).
export type PluralKey = Key extends infer K ? (K extends `${infer Stem}.other` ? Stem : never) : never
type Catalogue = Record<string, string>

export const languages = {
  en: { name: 'English', load: () => import('../i18n/en.json') },
  id: { name: 'Bahasa Indonesia', load: () => import('../i18n/id.json') },
  'zh-CN': { name: '简体中文', load: () => import('../i18n/zh-CN.json') },
  fa: { name: 'فارسی', load: () => import('../i18n/fa.json') },
  ru: { name: 'Русский', load: () => import('../i18n/ru.json') },
} as const
export type Language = keyof typeof languages

const catalogue = signal<Catalogue>({})
export const language = signal<Language>('en')
const stored = 'netpolicy.language'

// preferred is what was chosen before, or the best of what the browser asks for.
export function preferred(chosen: string | null, asked: readonly string[]): Language {
  for (const tag of chosen ? [chosen, ...asked] : asked) {
    const exact = Object.keys(languages).find((l) => l.toLowerCase() === tag.toLowerCase())
    const base = Object.keys(languages).find((l) => l.split('-')[0] === tag.toLowerCase().split('-')[0])
    if (exact ?? base) return (exact ?? base) as Language
  }
  return 'en'
}

export async function useLanguage(l: Language, keep = false): Promise<void> {
  const loaded = await languages[l].load()
  catalogue.value = loaded.default
  language.value = l
  document.documentElement.lang = l
  document.documentElement.dir = l === 'fa' ? 'rtl' : 'ltr'
  if (keep) save(stored, l)
}

export const startLanguage = () => useLanguage(preferred(load(stored), navigator.languages))

// fill puts params into the places {name} of a message.
export function fill(message: string, params?: Record<string, string | number>): string {
  if (!params) return message
  return message.replace(/\{(\w+)\}/g, (whole, name: string) => (name in params ? String(params[name]) : whole))
}

// t is the message of a key in the language chosen. Components that call it are
// drawn anew when the language changes.
export function t(key: Key, params?: Record<string, string | number>): string {
  return fill(catalogue.value[key] ?? key, params)
}

// tn is the message for a number of things; {n} in it is the number.
export function tn(key: PluralKey, n: number, params?: Record<string, string | number>): string {
  const form = new Intl.PluralRules(language.value).select(n)
  const message = catalogue.value[`${key}.${form}`] ?? catalogue.value[`${key}.other`] ?? key
  return fill(message, { n: new Intl.NumberFormat(language.value).format(n), ...params })
}

// Storage may be forbidden; then a choice lasts as long as the page.
export function load(key: string): string | null {
  try {
    return localStorage.getItem(key)
  } catch {
    return null
  }
}
export function save(key: string, value: string): void {
  try {
    localStorage.setItem(key, value)
  } catch {
    // Nothing to do: see load.
  }
}
