import { language } from './i18n'

const cache = new Map<string, Intl.NumberFormat | Intl.DateTimeFormat | Intl.RelativeTimeFormat>()
// Formatters are costly to make, and a table asks for hundreds a frame.
function cached<F extends Intl.NumberFormat | Intl.DateTimeFormat | Intl.RelativeTimeFormat>(id: string, make: (l: string) => F): F {
  const key = `${language.value} ${id}`
  let f = cache.get(key)
  if (!f) cache.set(key, (f = make(language.value)))
  return f as F
}

const units = ['byte', 'kilobyte', 'megabyte', 'gigabyte', 'terabyte', 'petabyte'] as const

function scaled(n: number, per: '' | '-per-second'): string {
  let step = 0
  while (n >= 999.5 && step < units.length - 1) {
    n /= 1000
    step++
  }
  const unit = units[step] + per
  const digits = step > 0 && n < 99.95 ? 1 : 0
  return cached(unit + digits, (l) => new Intl.NumberFormat(l, { style: 'unit', unit, unitDisplay: step === 0 ? 'narrow' : 'short', maximumFractionDigits: digits })).format(n)
}

export const bytes = (n: number) => scaled(n, '')
export const rate = (n: number) => scaled(n, '-per-second')

export function number(n: number, digits = 0): string {
  return cached(`n${digits}`, (l) => new Intl.NumberFormat(l, { maximumFractionDigits: digits })).format(n)
}

export function percent(ratio: number, digits = 0): string {
  return cached(`p${digits}`, (l) => new Intl.NumberFormat(l, { style: 'percent', maximumFractionDigits: digits })).format(ratio)
}

export function ms(n: number): string {
  const digits = n < 10 ? 2 : n < 100 ? 1 : 0
  return cached(`ms${digits}`, (l) => new Intl.NumberFormat(l, { style: 'unit', unit: 'millisecond', unitDisplay: 'short', maximumFractionDigits: digits })).format(n)
}

const spans = [
  ['day', 86400],
  ['hour', 3600],
  ['minute', 60],
  ['second', 1],
] as const

// duration is a number of seconds in its largest unit: an age, not a clock. The narrow
// forms of Persian are the letters of English.
export function duration(seconds: number): string {
  const [unit, size] = spans.find(([, size]) => Math.abs(seconds) >= size) ?? spans[3]
  return cached(`d${unit}`, (l) => new Intl.NumberFormat(l, { style: 'unit', unit, unitDisplay: l === 'fa' ? 'short' : 'narrow', maximumFractionDigits: 0 })).format(Math.floor(seconds / size))
}

export function ago(at: Date, now: Date): string {
  const seconds = Math.round((at.getTime() - now.getTime()) / 1000)
  const [unit, size] = spans.find(([, size]) => Math.abs(seconds) >= size) ?? spans[3]
  return cached('ago', (l) => new Intl.RelativeTimeFormat(l, { numeric: 'auto', style: 'short' })).format(Math.trunc(seconds / size), unit)
}

export function clock(at: Date): string {
  return cached('clock', (l) => new Intl.DateTimeFormat(l, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' })).format(at)
}

export function dateTime(at: Date): string {
  return cached('date', (l) => new Intl.DateTimeFormat(l, { dateStyle: 'medium', timeStyle: 'medium' })).format(at)
}

// countdown is a time left as m:ss.
export function countdown(seconds: number): string {
  const left = Math.max(0, Math.ceil(seconds))
  const two = cached('two', (l) => new Intl.NumberFormat(l, { minimumIntegerDigits: 2, useGrouping: false }))
  return `${number(Math.floor(left / 60))}:${two.format(left % 60)}`
}
