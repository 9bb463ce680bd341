// Sixty links of every protocol over every transport, with what stands in each:
// the keys behind the question mark, as the form has to show them.
const id = '11111111-2222-4333-8444-555555555555'
const key = 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8'
const wg = 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8='
const pin = 'ab'.repeat(32)

const transports = [
  { type: 'tcp' },
  { type: 'tcp', headerType: 'http', host: 'h.example', path: '/a' },
  { type: 'ws', host: 'h.example', path: '/ws?ed=2048' },
  { type: 'httpupgrade', host: 'h.example', path: '/up' },
  { type: 'xhttp', host: 'h.example', path: '/x', mode: 'stream-up', extra: '{"xPaddingBytes":"100-1000"}' },
  { type: 'grpc', serviceName: 'svc/ice', authority: 'a.example', mode: 'multi' },
  { type: 'kcp', mtu: '1400', tti: '20' },
]
const tls = { security: 'tls', sni: 's.example', fp: 'firefox', alpn: 'h2,http/1.1', pcs: pin }
const reality = { security: 'reality', sni: 'r.example', fp: 'chrome', pbk: key, sid: 'ab12', spx: '/s' }

function* all() {
  let n = 0
  const link = (scheme, user, params, protocol = scheme) => {
    n++
    const name = `${protocol} ${n} · é Ж &=#%`
    const query = Object.entries(params).map(([k, v]) => `${k}=${encodeURIComponent(v)}`).join('&')
    return { link: `${scheme}://${user}@host${n}.example:${1000 + n}${query && `?${query}`}#${encodeURIComponent(name)}`, protocol, name, host: `host${n}.example`, port: String(1000 + n), params }
  }
  for (const t of transports) {
    yield link('vless', id, { ...t, ...tls })
    yield link('vmess', id, { ...t, ...tls, encryption: 'aes-128-gcm' })
    yield link('trojan', 'pass%20word', { ...t, ...tls })
    if (['tcp', 'xhttp', 'grpc'].includes(t.type) && !t.headerType) {
      yield link('vless', id, { ...t, ...reality, ...(t.type === 'tcp' ? { flow: 'xtls-rprx-vision' } : {}) })
      yield link('trojan', 'pw', { ...t, ...reality })
    }
    yield link('vless', id, { ...t, security: 'none', 'x-unknown': `kept ${n}`, note: '<b>"\'&' })
  }
  for (const method of ['aes-128-gcm', 'aes-256-gcm', 'chacha20-ietf-poly1305', 'xchacha20-ietf-poly1305']) {
    yield link('ss', `${method}:p%40ss%3Aword`, { 'x-note': 'a b' })
  }
  yield link('ss', `2022-blake3-aes-256-gcm:${encodeURIComponent(wg)}`, { plugin: 'v2ray-plugin;mode=websocket;mux=0;host=p.example;path=/p' })
  for (const more of [{}, { obfs: 'salamander', 'obfs-password': 'o p' }, { mport: '20000-50000', 'hop-interval': '30' }, { pinSHA256: pin, up: '100 mbps', down: '200 mbps' }]) {
    yield link('hysteria2', 'se%20cret', { sni: 'y.example', ...more })
  }
  for (const more of [{}, { presharedkey: wg, reserved: '1,2,3' }, { mtu: '1280', keepalive: '25', allowedips: '10.0.0.0/8' }]) {
    yield link('wireguard', encodeURIComponent(wg), { publickey: wg, address: '10.0.0.2/32,fd00::2/128', ...more })
  }
  yield link('socks5', 'user:pa%3Ass', {}, 'socks')
  yield link('socks5', 'user:pass', { 'x-odd': '1' }, 'socks')
  yield link('http', 'user:pass', {}, 'http')
  yield link('https', 'user:pass', { sni: 'q.example' }, 'http')
  for (const flow of ['xtls-rprx-vision', 'xtls-rprx-vision-udp443']) yield link('vless', id, { type: 'tcp', ...tls, flow })
  yield link('vless', id, { type: 'ws', path: '/', ...tls, ech: 'AAAA', vcn: 'v.example' })
  yield link('trojan', 'pw', { type: 'ws', path: '/t', ...tls, 'x-remark': '<img src=x onerror=alert(1)>' })
  for (;;) yield link('vless', id, { type: 'grpc', serviceName: `more${n}`, ...tls })
}

export const links = (() => {
  const out = []
  for (const l of all()) {
    out.push(l)
    if (out.length === 60) return out
  }
})()
