// @vitest-environment node
import { describe, expect, it } from 'vitest'
import { find } from './find'
import { placeOf, worst } from './text'
import type { Finding } from './types'

describe('a rule', () => {
  const at = (text: string, name: string, line: number) => {
    const place = placeOf(text, name, line)
    return place && text.slice(place.from, place.to)
  }
  const npl = '# rule calls was one\nuplink wan1 {}\nrule calls_when_bad priority 1 {}\nrule calls priority 2 {}\n'
  it('stands where the daemon says', () => {
    expect(at(npl, 'calls', 4)).toBe('rule calls priority 2 {}')
    expect(at('rules:\n  - priority: 1\n    name: calls\n', 'calls', 2)).toBe('    name: calls')
  })
  it('is found where it has gone by editing', () => {
    expect(at(`\n\n${npl}`, 'calls', 4)).toBe('rule calls priority 2 {}')
    expect(at('rules: [{name: "calls", priority: 1}]', 'calls', 9)).toBe('rules: [{name: "calls", priority: 1}]')
  })
  it('that is gone is nowhere', () => expect(at('policy 1\n', 'calls', 4)).toBeNull())
})

describe('finding', () => {
  const text = 'Wan1 wan2 WAN1 (wan1)'
  it('goes on, back and round, whatever the case', () => {
    expect(find(text, 'wan1', 0, 0)).toEqual({ all: [0, 10, 16], at: 0 })
    expect(find(text, 'wan1', 0, 1).at).toBe(1)
    expect(find(text, 'wan1', 16, 1).at).toBe(0)
    expect(find(text, 'wan1', 10, -1).at).toBe(0)
    expect(find(text, 'wan1', 0, -1).at).toBe(2)
    expect(find(text, 'wan1', 11, 0).at).toBe(2)
  })
  it('takes any text as it is', () => {
    expect(find(text, '(wan1)', 0, 0).all).toEqual([15])
    expect(find('a.b ab \\d é😀', '.', 0, 0).all).toEqual([1])
    expect(find('a.b ab \\d é😀', '\\d É😀', 0, 0).all).toEqual([7])
    expect(find(text, 'none', 0, 0).all).toEqual([])
    expect(find(text, '', 0, 0).all).toEqual([])
  })
})

it('shows errors first, each kind by its lines', () => {
  const f = (severity: Finding['severity'], line?: number) => ({ severity, line }) as Finding
  const list = [f('hint', 1), f('error', 9), f('warning', 3), f('error', 2), f('warning')]
  expect(list.sort(worst).map((x) => `${x.severity} ${x.line}`)).toEqual(['error 2', 'error 9', 'warning undefined', 'warning 3', 'hint 1'])
})
