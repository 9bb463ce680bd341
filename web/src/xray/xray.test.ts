// @vitest-environment node
import { describe, expect, it, vi } from 'vitest'
import encodeQR from 'qr'
import decodeQR from 'qr/decode.js'
import { startOf } from '../../page/start'
import { codes, path } from '../lib/qr'
import { type Call, Generator, type View } from './core'
import { XrayDocument } from './document'

vi.stubGlobal('document', {})

// A generator that knows profiles of one key: enough to see what the document asks, and when.
const view = (name: string, ok = true): View => ({
  ok, protocol: 'trojan', fields: [], findings: ok ? [] : [{ severity: 'error', message: 'no port' }], losses: [], link: `trojan://${name}`,
  state: { form: 'url', scheme: 'trojan', name, host: '', port: '', user: '', password: '', params: [] },
})
interface Request { text?: string; state?: { name: string }; changes?: { value: string | null }[]; states?: { name: string }[]; to?: string; written?: { to: string; states: ({ name: string } | null)[] } }
// said is what a format of the fake says of profiles: nothing of those that begin with _.
const said = (r: { to?: string; states?: ({ name: string } | null)[] }) => `${r.to}: ${r.states!.flatMap((s) => (s && !s.name.startsWith('_') ? s.name : [])).join()}`
const fake = () => {
  const asked: string[] = []
  const call = (async (name: string, request: Request) => {
    asked.push(name)
    if (name === 'parse') {
      const { text, written } = request
      if (text === 'broken') throw new Error('nothing can be read')
      if (text!.startsWith('{')) return { format: 'xray', profiles: [{ ...view('a'), line: 1 }], losses: [{ format: 'xray', keys: ['routing'], why: 'only profiles are written' }, { format: 'xray', keys: ['mux'] }] }
      if (text!.startsWith('clash: ')) {
        const names = text!.slice(7).trim().split(',').filter(Boolean).map((name, i) => ({ name, line: i + 1 }))
        if (written?.to !== 'clash') return { format: 'clash', profiles: names.map(({ name, line }) => ({ ...view(name), line })), losses: [] }
        // A name that was changed begins with the old one.
        const from = (name: string) => written.states.findIndex((s) => s && name.startsWith(s.name))
        const there = names.map(({ name }) => (from(name) < 0 ? view(name) : { ...view(name), from: from(name), kept: written.states[from(name)]!.name === name }))
        const left = written.states.flatMap((s, i) => (!s || s.name.startsWith('_') ? { from: i, kept: true, ok: false, fields: [], findings: [], losses: [] } : []))
        return { format: 'clash', profiles: [...left, ...there], losses: [], lost: left.map((l) => ({ format: 'clash', keys: [`${l.from}`], left: true })) }
      }
      const lines = text!.split('\n').map((l, i) => [l, i + 1] as const).filter(([l]) => l && !l.startsWith('#'))
      const others = text!.trimEnd().split('\n').map((text, i) => ({ text, line: i + 1 })).filter((l) => !l.text || l.text.startsWith('#'))
      return { format: 'link', losses: [{ format: 'link', keys: ['comments'], why: 'only profiles are written' }], lines: others, profiles: lines.map(([l, line]) => (l.startsWith('trojan://') ? { ...view(l.slice(9)), line } : { ...view('', false), raw: l, ok: false, state: undefined, line })) }
    }
    if (name === 'edit') return view(request.changes![0]?.value ?? request.state!.name, request.changes![0]?.value !== 'bad')
    return { text: said(request), losses: request.to === 'xray' ? [{ format: 'xray', keys: ['mux'] }] : [], findings: [] }
  }) as Call
  return { asked, document: new XrayDocument(new Generator(call)) }
}
const names = (d: XrayDocument) => d.profiles.value.map((p) => p.state?.name)
// typed types a text and waits until it is read.
const typed = async (d: XrayDocument, text: string) => {
  vi.useFakeTimers()
  d.type(text)
  await vi.advanceTimersByTimeAsync(1000)
  vi.useRealTimers()
}

describe('a document', () => {
  it('keeps lines that can not be read, and writes what was edited', async () => {
    const { document: d } = fake()
    await d.write('trojan://a\nodd\ntrojan://b')
    expect(d.profiles.value.map((p) => p.ok)).toEqual([true, false, true])
    d.choose(2)
    expect(await d.change([{ key: '#name', value: 'c' }])).toBe(true)
    expect(d.text.value).toBe('trojan://a\nodd\ntrojan://c\n')
    await d.show('clash')
    expect(d.text.value).toBe('clash: a,c')
  })
  it('keeps comments and empty lines of a list of links', async () => {
    const { document: d } = fake()
    await d.write('# mine\ntrojan://a\n\n# odd\nodd\ntrojan://b\n')
    expect(await d.change([{ key: '#name', value: 'c' }])).toBe(true)
    expect(d.text.value).toBe('# mine\ntrojan://c\n\n# odd\nodd\ntrojan://b\n')
    await d.remove()
    expect(d.text.value).toBe('# mine\n\n# odd\nodd\ntrojan://b\n')
  })
  it('holds a text that would lose something, until that is accepted or the edit taken back', async () => {
    const { document: d } = fake()
    await d.write('{"routing":{}}')
    expect(await d.change([{ key: '#name', value: 'b' }])).toBe(true)
    expect([d.held.value, d.text.value]).toEqual([true, '{"routing":{}}'])
    expect(d.losses.value.map((l) => l.keys)).toEqual([['routing'], ['mux']])
    expect(d.shown?.state?.name).toBe('b')
    await d.undo()
    expect([d.held.value, d.text.value, d.losses.value, d.shown?.state?.name]).toEqual([false, '{"routing":{}}', [], 'a'])
    await d.change([{ key: '#name', value: 'c' }])
    await d.accept()
    expect([d.held.value, d.text.value]).toEqual([false, 'xray: c'])
    // It is asked once; a new text is asked about again.
    await d.change([{ key: '#name', value: 'd' }])
    expect([d.held.value, d.text.value]).toEqual([false, 'xray: d'])
    await d.write('{"routing":{}}')
    await d.remove()
    expect(d.held.value).toBe(true)
  })
  it('comes back as it came from another format, which says what is not in it', async () => {
    const { document: d } = fake()
    await d.write('{"routing":{}}')
    await d.show('clash')
    expect([d.held.value, d.text.value, d.losses.value.map((l) => l.keys)]).toEqual([false, 'clash: a', [['routing']]])
    await d.show('xray')
    expect([d.text.value, d.losses.value]).toEqual(['{"routing":{}}', []])
  })
  it('keeps a text that can not be read from being written over', async () => {
    const { document: d } = fake()
    await d.write('trojan://a')
    await d.write('broken')
    await d.change([{ key: '#name', value: 'b' }])
    // That it can't be read is no loss: it is said beside, and that once.
    expect([d.held.value, d.text.value, d.error.value, d.losses.value]).toEqual([true, 'broken', 'nothing can be read', []])
    await d.show('clash')
    expect([d.text.value, d.error.value, d.losses.value]).toEqual(['clash: b', '', []])
    await d.show('link')
    expect([d.text.value, d.error.value]).toEqual(['broken', 'nothing can be read'])
    // An edit that is under way while something is typed does not write over that.
    const late = d.change([{ key: '#name', value: 'c' }])
    d.type('trojan://typed')
    expect(await late).toBe(false)
    expect(d.text.value).toBe('trojan://typed')
  })
  it('keeps what a format can not say while its text is typed in', async () => {
    const { document: d } = fake()
    await d.write('# mine\ntrojan://_a\nodd\ntrojan://b\ntrojan://c')
    await d.show('clash')
    expect(d.text.value).toBe('clash: b,c')
    await typed(d, 'clash: b,c ')
    expect([names(d), d.text.value, d.losses.value.map((l) => l.keys)]).toEqual([['_a', undefined, 'b', 'c'], 'clash: b,c ', [['0'], ['1']]])
    await d.show('link')
    expect([d.text.value, d.losses.value]).toEqual(['# mine\ntrojan://_a\nodd\ntrojan://b\ntrojan://c', []])
    // What was typed is there again, and goes on to be an edit of what was there first.
    await d.show('clash')
    expect(d.text.value).toBe('clash: b,c ')
    await typed(d, 'broken')
    expect([d.error.value, names(d)]).toEqual(['nothing can be read', ['_a', undefined, 'b', 'c']])
    await typed(d, 'clash: b2,d')
    expect([d.error.value, names(d)]).toEqual(['', ['_a', undefined, 'b2', 'd']])
    await d.show('link')
    expect(d.text.value).toBe('# mine\ntrojan://_a\nodd\ntrojan://b2\ntrojan://d\n')
  })
  it('asks nothing about a text that was typed in and loses nothing', async () => {
    const { document: d } = fake()
    await d.write('trojan://_a\ntrojan://b')
    await d.show('clash')
    await typed(d, 'clash: b1')
    d.choose(1)
    await d.change([{ key: '#name', value: 'c' }])
    expect([d.held.value, d.text.value]).toEqual([false, 'clash: c'])
    // By the rules of another version it is written anew.
    await typed(d, 'clash: c ')
    await d.useCore('26.7')
    expect([d.held.value, d.text.value]).toEqual([false, 'clash: c'])
  })
  it('keeps what came beside the profiles while another format is typed in', async () => {
    const { document: d } = fake()
    await d.write('{"routing":{}}')
    await d.show('clash')
    await typed(d, 'clash: a ')
    await d.show('xray')
    expect([d.held.value, d.text.value]).toEqual([false, '{"routing":{}}'])
    await d.show('clash')
    await typed(d, 'clash: a2')
    await d.show('xray')
    expect([d.held.value, d.text.value, d.losses.value.map((l) => l.keys)]).toEqual([true, '{"routing":{}}', [['routing'], ['mux']]])
  })
  it('reads what was typed before another format is shown', async () => {
    const { document: d } = fake()
    d.type('trojan://a')
    await d.show('clash')
    expect([d.format.value, d.text.value]).toEqual(['clash', 'clash: a'])
    void d.write('trojan://b')
    await d.show('xray')
    expect([d.format.value, d.text.value]).toEqual(['xray', 'xray: b'])
  })
  it('appends what is added, in whatever format both are', async () => {
    const { document: d } = fake()
    await d.add('# mine\ntrojan://a\n')
    expect(d.text.value).toBe('# mine\ntrojan://a\n')
    await d.add('# more\nodd\ntrojan://b\n')
    expect([d.text.value, d.at.value]).toEqual(['# mine\ntrojan://a\n# more\nodd\ntrojan://b\n', 1])
    await d.show('clash')
    await d.add('trojan://c')
    expect([d.text.value, d.shown?.state?.name, d.gone.value]).toEqual(['clash: a,b,c', 'c', null])
    await d.add('clash: d,e')
    expect(d.text.value).toBe('clash: a,b,c,d,e')
    await d.show('link')
    expect(d.text.value).toBe('# mine\ntrojan://a\n# more\nodd\ntrojan://b\ntrojan://c\ntrojan://d\ntrojan://e\n')
    await expect(d.add('broken')).rejects.toThrow('nothing can be read')
    expect(names(d)).toHaveLength(6)
    // A configuration of the user's is asked about first.
    await d.write('{"routing":{}}')
    await d.add('trojan://c')
    expect([d.held.value, names(d)]).toEqual([true, ['a', 'c']])
    // What has been typed and not read yet is there, too.
    const late = fake().document
    late.type('trojan://a')
    await late.add('trojan://b')
    expect(late.text.value).toBe('trojan://a\ntrojan://b\n')
    void late.write('trojan://c')
    await late.add('trojan://d')
    expect(late.text.value).toBe('trojan://c\ntrojan://d\n')
  })
  it('brings back profiles that are gone', async () => {
    const { document: d } = fake()
    await d.write('# mine\ntrojan://a\ntrojan://b')
    await typed(d, '')
    expect([names(d), d.gone.value?.profiles.length]).toEqual([[], 2])
    await d.back()
    expect([names(d), d.text.value, d.gone.value]).toEqual([['a', 'b'], '# mine\ntrojan://a\ntrojan://b', null])
    await d.remove()
    await d.remove()
    await d.back()
    expect([names(d), d.text.value]).toEqual([['a', 'b'], '# mine\ntrojan://a\ntrojan://b'])
    // Whoever types them again, or goes on, has no use for it.
    await typed(d, '# mine\ntrojan://a')
    expect(d.gone.value).not.toBe(null)
    await typed(d, '# mine\ntrojan://a\ntrojan://c')
    expect(d.gone.value).toBe(null)
    await d.remove()
    await d.change([{ key: '#name', value: 'x' }])
    expect(d.gone.value).toBe(null)
  })
  it('keeps a value that can not be beside the profile, and changes nothing', async () => {
    const { document: d } = fake()
    await d.write('trojan://a')
    expect(await d.change([{ key: '#port', value: 'bad' }])).toBe(false)
    expect(d.refused.value).toEqual({ '#port': { value: 'bad', why: 'no port' } })
    expect(d.text.value).toBe('trojan://a')
    await d.change([{ key: '#port', value: 'good' }])
    expect(d.refused.value).toEqual({})
  })
  it('makes changes one after the other, and loses none', async () => {
    const { asked, document: d } = fake()
    await d.write('trojan://a\ntrojan://b')
    const first = d.change([{ key: '#name', value: 'x' }])
    d.choose(1)
    const second = d.change([{ key: '#name', value: 'y' }])
    expect(await Promise.all([first, second])).toEqual([true, true])
    expect(d.text.value).toBe('trojan://x\ntrojan://y\n')
    // A text that comes meanwhile makes an edit of the old one void.
    const late = d.change([{ key: '#name', value: 'z' }])
    await d.write('trojan://new')
    expect(await late).toBe(false)
    expect(d.text.value).toBe('trojan://new')
    expect(asked.filter((a) => a === 'edit').length).toBeGreaterThanOrEqual(2)
  })
  it('says why nothing can be read, and what was there stays', async () => {
    const { document: d } = fake()
    await d.write('trojan://a')
    await d.write('broken')
    expect(d.error.value).toBe('nothing can be read')
    expect(d.profiles.value).toHaveLength(1)
    await d.write('')
    expect(d.profiles.value).toHaveLength(0)
    expect(d.error.value).toBe('')
  })
  it('reads what is typed once, after the last key; what is pasted meanwhile wins', async () => {
    vi.useFakeTimers()
    const { asked, document: d } = fake()
    d.type('t')
    d.type('trojan://typed')
    await d.write('trojan://pasted')
    await vi.advanceTimersByTimeAsync(1000)
    expect(asked).toEqual(['parse'])
    expect(d.text.value).toBe('trojan://pasted')
    vi.useRealTimers()
  })
})

it('the profiles outlive their page, and not the session', async () => {
  const [{ current }, { session }] = await Promise.all([import('../pages/xray'), import('../lib/api')])
  session.value = { role: 'admin' } as NonNullable<typeof session.value>
  const before = current()
  session.value = { ...session.value }
  expect(current()).toBe(before)
  session.value = null
  expect(current()).not.toBe(before)
})

describe('QR codes', () => {
  // picture draws codes beside each other, four pixels to a module.
  const picture = (texts: string[], ink = 0, paper = 255) => {
    const scale = 4
    const drawn = texts.map(path)
    const width = drawn.reduce((n, { size }) => n + size, 0) * scale
    const height = Math.max(...drawn.map(({ size }) => size)) * scale
    const data = new Uint8ClampedArray(width * height * 4).fill(paper)
    for (let i = 3; i < data.length; i += 4) data[i] = 255
    let left = 0
    for (const { size, d } of drawn) {
      for (const [, x, y, w] of d.matchAll(/M(\d+) (\d+)h(\d+)v1h-\d+z/g)) {
        for (let py = Number(y) * scale; py < (Number(y) + 1) * scale; py++)
          for (let px = left + Number(x) * scale; px < left + (Number(x) + Number(w)) * scale; px++) data.fill(ink, (py * width + px) * 4, (py * width + px) * 4 + 3)
      }
      left += size * scale
    }
    return codes(decodeQR, width, height, data)
  }
  it.each([['short'], ['vless://11111111-2222-4333-8444-555555555555@h.example:443?security=tls#' + encodeURIComponent('漢字 é')], ['x'.repeat(1200)]])('are read as they were drawn (%#)', (text) => {
    expect(picture([text])).toEqual([text])
  })
  it('are read light on dark, as in a dark screenshot', () => {
    expect(picture(['trojan://a@h.example:443#a'], 230, 20)).toEqual(['trojan://a@h.example:443#a'])
  })
  it('are all read, of several in one picture', () => {
    const texts = ['trojan://a@h.example:443#a', 'trojan://b@h.example:443#b', 'trojan://c@h.example:443?security=tls#c']
    expect(picture(texts).sort()).toEqual(texts)
    expect(codes(decodeQR, 100, 100, new Uint8ClampedArray(40_000).fill(255))).toEqual([])
  })
  it('has a limit', () => {
    expect(() => path('x'.repeat(4000))).toThrow()
    expect(encodeQR('x', 'raw')).toBeTruthy()
  })
})

it.each([
  ['#trojan://pw@h:443#100%', 'trojan://pw@h:443#100%'],
  ['#trojan://a%40b%2Fc@h:443#x', 'trojan://a%40b%2Fc@h:443#x'],
  ['#trojan%3A%2F%2Fa%2540b%40h%3A443%23x', 'trojan://a%40b@h:443#x'],
  ['#100%', '100%'],
  ['', ''],
])('the page begins with the text behind #: %s', (hash, want) => expect(startOf(hash)).toBe(want))
