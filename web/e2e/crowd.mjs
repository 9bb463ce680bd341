// A daemon of recorded shapes with as many connections as are asked for, for tests that
// need very many, or a daemon that does what a real one seldom does: 10,000 real ones that
// change 100 times a second would measure the machine's network more than the page. It
// serves the real dist/.
import { createServer } from 'node:http'
import { readFile } from 'node:fs/promises'
import { extname, join, normalize } from 'node:path'

export const policy =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
const types = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.wasm': 'application/wasm', '.json': 'application/json' }

// files serves a folder as netpolicyd serves its own, with the same policy.
export async function files(root, req, res, csp = policy) {
  const path = normalize(decodeURIComponent(new URL(req.url, 'http://x').pathname)).replace(/^\/+/, '') || 'index.html'
  try {
    const body = await readFile(join(root, path))
    res.writeHead(200, { 'Content-Type': types[extname(path)] ?? 'application/octet-stream', 'Content-Security-Policy': csp, 'X-Content-Type-Options': 'nosniff' })
    res.end(body)
  } catch {
    res.writeHead(404).end()
  }
}

const uplinks = ['wan1', 'wan2']
const began = Date.now()

function connection(id) {
  const uplink = uplinks[id % 2]
  return {
    id: String(id),
    flow: { proto: 'tcp', src: `10.${id >> 16}.${(id >> 8) & 255}.${id & 255}:${20000 + (id % 40000)}`, dst: `203.0.113.${id % 250}:443`, sni: `host${id}.example.com`, process: id % 5 === 0 ? 'curl' : null },
    name: `host${id}.example.com`,
    name_from: 'sni',
    decision: { rule: id % 3 ? `rule_${id % 17}` : null, action: 'route', target: uplink, route: uplink, why: 'the only match; otherwise default', default: id % 3 === 0 },
    uplink,
    source: 'conntrack',
    age_seconds: (Date.now() - began) / 1000 + (id % 500),
    rtt_ms: (id * 7) % 300,
    retransmits: 0,
    bytes_up: id * 1000,
    bytes_down: id * 5000,
    up_rate: (id * 13) % 9000,
    down_rate: (id * 31) % 90000,
  }
}

// logLine is every third time a decision.
const logLine = (n) => ({ time: new Date().toISOString(), level: 'INFO', msg: `line ${n}`, ...(n % 3 === 0 && { record: { ...connection(n).decision, flow: connection(n).flow, name: connection(n).name } }) })

const status = () => ({
  version: 'crowd', pid: 1, started: new Date(began).toISOString(), now: new Date().toISOString(), mode: 'enforce',
  policy: { file: 'policy.npl', hash: 'ed1b070d16de', since: new Date(began).toISOString(), rules: 17, routes: 2 }, error: null, state: 'NORMAL',
  uplinks: uplinks.map((name) => ({ name, dev: name, state: 'NORMAL', up: true, share: 50, rtt_ms: 12, rtt_p90_ms: 20, loss: 0, error_rate: -1, penalty: 0 })),
  sources: [], flows: 10000, names: 1, decisions: 1, hits: [], drops: {},
})

// crowd serves count connections; each second `changes` events end one and begin
// another, or name one. What is put into `more` is a part of its status; `signedIn` is
// whether it knows the page, and while it is `silent` nothing comes.
export async function crowd(root, { count, changes }) {
  const self = { more: {}, signedIn: true, silent: false, newest: () => next - 1 }
  let lines = 0
  let next = count + 1
  let oldest = 1
  const streams = new Set()
  const timer = setInterval(() => {
    let out = ''
    for (let i = 0; i < changes / 20; i++) {
      const kind = i % 3
      if (kind === 0) out += `event: ended\ndata: ${JSON.stringify({ id: String(oldest++), time: new Date().toISOString(), bytes_up: 1, bytes_down: 1, reason: 'closed' })}\n\n`
      else {
        const c = connection(kind === 1 ? next++ : oldest + 1 + ((Math.random() * (next - oldest - 2)) | 0))
        out += `event: decisions\ndata: ${JSON.stringify({ schema: 'np.decision/1', ...c.decision, id: c.id, time: new Date().toISOString(), event: 'open', mode: 'enforce', policy: 'x', flow: c.flow, name: c.name, name_from: 'sni', uplink: c.uplink })}\n\n`
      }
    }
    out += `event: logs\ndata: ${JSON.stringify(logLine(++lines))}\n\n`
    for (const s of self.silent ? [] : streams) s.write(out)
  }, 50)
  const second = setInterval(() => {
    for (const s of self.silent ? [] : streams) s.write(`event: status\ndata: ${JSON.stringify({ ...status(), ...self.more })}\n\n`)
  }, 1000)
  const server = createServer((req, res) => {
    const url = new URL(req.url, 'http://x')
    const json = (v) => {
      res.writeHead(200, { 'Content-Type': 'application/json' })
      res.end(JSON.stringify(v))
    }
    if (url.pathname.startsWith('/api/') && !self.signedIn) {
      res.writeHead(401, { 'Content-Type': 'application/problem+json' })
      return res.end(JSON.stringify({ status: 401, detail: 'the session has ended' }))
    }
    if (url.pathname === '/api/v1/logs') return json({ lines: [], lost: 0 })
    if (url.pathname === '/api/v1/explain') return json({ ...connection(1).decision, runner_up: null, specificity: {}, near: [] })
    if (url.pathname === '/api/v1/session') return json({ role: 'admin', by: 'token' })
    if (url.pathname === '/api/v1/connections') {
      const at = Number(url.searchParams.get('offset') ?? 0)
      const limit = Number(url.searchParams.get('limit') ?? 100)
      const flows = []
      for (let id = oldest + at; id < Math.min(next, oldest + at + limit); id++) flows.push(connection(id))
      return json({ now: new Date().toISOString(), total: next - oldest, matched: next - oldest, flows })
    }
    if (url.pathname === '/api/v1/events') {
      res.writeHead(200, { 'Content-Type': 'text/event-stream' })
      res.write(`event: status\ndata: ${JSON.stringify({ ...status(), ...self.more })}\n\n`)
      streams.add(res)
      res.on('close', () => streams.delete(res))
      return undefined
    }
    if (url.pathname.startsWith('/api/')) return json({})
    return void files(root, req, res)
  })
  await new Promise((done) => server.listen(0, '127.0.0.1', done))
  return Object.assign(self, {
    url: `http://127.0.0.1:${server.address().port}/`,
    close: () => {
      clearInterval(timer)
      clearInterval(second)
      for (const s of streams) s.end()
      return new Promise((done) => server.close(done))
    },
  })
}
