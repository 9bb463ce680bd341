// @vitest-environment node
import { describe, expect, it, vi } from 'vitest'
import encodeQR from 'qr'
import decodeQR from 'qr/decode.js'
import { startOf } from '../../page/start'
import { path } from '../lib/qr'
import { type Call, Generator, type View } from './core'
import { XrayDocument } from './document'
import { pinOf } from './pin'

vi.stubGlobal('document', {})

// A generator that knows profiles of one key: enough to see what the document asks, and when.
const view = (name: string, ok = true): View => ({
  ok, protocol: 'trojan', fields: [], findings: ok ? [] : [{ severity: 'error', message: 'no port' }], losses: [], link: `trojan://${name}`,
  state: { form: 'url', scheme: 'trojan', name, host: '', port: '', user: '', password: '', params: [] },
})
const fake = () => {
  const asked: string[] = []
  const call = (async (name: string, request: { text?: string; state?: { name: string }; changes?: { value: string | null }[]; states?: { name: string }[]; to?: string }) => {
    asked.push(name)
    if (name === 'parse') {
      if (request.text === 'broken') throw new Error('nothing can be read')
      if (request.text!.startsWith('{')) return { format: 'xray', profiles: [{ ...view('a'), line: 1 }], losses: [{ format: 'xray', keys: ['routing'], why: 'only profiles are written' }, { format: 'xray', keys: ['mux'] }] }
      const lines = request.text!.split('\n').map((l, i) => [l, i + 1] as const).filter(([l]) => l && !l.startsWith('#'))
      return { format: 'link', losses: [{ format: 'link', keys: ['comments'], why: 'only profiles are written' }], profiles: lines.map(([l, line]) => (l.startsWith('trojan://') ? { ...view(l.slice(9)), line } : { ...view('', false), ok: false, state: undefined, line })) }
    }
    if (name === 'edit') return view(request.changes![0]?.value ?? request.state!.name, request.changes![0]?.value !== 'bad')
    return { text: `${request.to}: ${request.states!.map((s) => s.name).join()}`, losses: request.to === 'xray' ? [{ format: 'xray', keys: ['mux'] }] : [], findings: [] }
  }) as Call
  return { asked, document: new XrayDocument(new Generator(call)) }
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
    expect([d.held.value, d.text.value, d.losses.value[0]?.why]).toEqual([true, 'broken', 'nothing can be read'])
    // An edit that is under way while something is typed does not write over that.
    const late = d.change([{ key: '#name', value: 'c' }])
    d.type('trojan://typed')
    expect(await late).toBe(false)
    expect(d.text.value).toBe('trojan://typed')
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

describe('QR codes', () => {
  it.each([['short'], ['vless://11111111-2222-4333-8444-555555555555@h.example:443?security=tls#' + encodeURIComponent('漢字 é')], ['x'.repeat(1200)]])('are read as they were drawn (%#)', (text) => {
    const { size, d } = path(text)
    // The path again as pixels, four to a module.
    const scale = 4
    const data = new Uint8ClampedArray(size * scale * size * scale * 4).fill(255)
    for (const [, x, y, w] of d.matchAll(/M(\d+) (\d+)h(\d+)v1h-\d+z/g)) {
      for (let py = Number(y) * scale; py < (Number(y) + 1) * scale; py++)
        for (let px = Number(x) * scale; px < (Number(x) + Number(w)) * scale; px++) data.fill(0, (py * size * scale + px) * 4, (py * size * scale + px) * 4 + 3)
    }
    expect(decodeQR({ width: size * scale, height: size * scale, data })).toBe(text)
  })
  it('has a limit', () => {
    expect(() => path('x'.repeat(4000))).toThrow()
    expect(encodeQR('x', 'raw')).toBeTruthy()
  })
})

describe('a pin', () => {
  const der = new Uint8Array([0x30, 0x82, 0, 3, 1, 2, 3])
  const pem = (b: Uint8Array) => `-----BEGIN CERTIFICATE-----\n${btoa(String.fromCharCode(...b))}\n-----END CERTIFICATE-----\n`
  it('is the hash of the whole certificate', async () => {
    const { createHash } = await import('node:crypto')
    expect(await pinOf(`depth=0\n${pem(der)}`)).toBe(createHash('sha256').update(der).digest('hex'))
  })
  it.each([['nothing'], [pem(der.slice(0, 6))], ['-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----']])('is of nothing else (%#)', async (text) => {
    await expect(pinOf(text)).rejects.toThrow()
  })
})

it.each([
  ['#trojan://pw@h:443#100%', 'trojan://pw@h:443#100%'],
  ['#trojan://a%40b%2Fc@h:443#x', 'trojan://a%40b%2Fc@h:443#x'],
  ['#trojan%3A%2F%2Fa%2540b%40h%3A443%23x', 'trojan://a%40b@h:443#x'],
  ['#100%', '100%'],
  ['', ''],
])('the page begins with the text behind #: %s', (hash, want) => expect(startOf(hash)).toBe(want))
