// A lab with the real netpolicyd, its web interface on this machine's loopback, and
// a client that makes connections: `netpolicy lab up --web`.
import { execFileSync, spawn } from 'node:child_process'
import { join } from 'node:path'

const root = join(import.meta.dirname, '../..')
const bin = process.env.NETPOLICY_BIN ?? join(root, 'bin')
export const netpolicy = join(bin, 'netpolicy')

// lab resolves when the interface answers. say carries out a line of a lab script; path
// is where the lab and its daemon look for programs first.
export async function lab({ policy = 'examples/demo/policy.npl', path } = {}) {
  const env = { ...process.env, PATH: [path, process.env.PATH].filter(Boolean).join(':') }
  const child = spawn(netpolicy, ['lab', 'up', '--traffic', '--web', '127.0.0.1:0', join(root, policy)], { stdio: ['pipe', 'pipe', 'inherit'], env })
  let out = ''
  child.stdout.on('data', (d) => (out += d))
  const ended = new Promise((done) => child.on('exit', done))
  const find = async (pattern) => {
    for (let i = 0; i < 600; i++) {
      const found = pattern.exec(out)
      if (found) return found
      if (child.exitCode !== null) break
      await new Promise((done) => setTimeout(done, 100))
    }
    child.kill('SIGINT')
    throw new Error(`the lab does not say ${pattern}:\n${out}`)
  }
  const [, url, token] = await find(/(http:\/\/127\.0\.0\.1:\d+\/)#\/login\?token=(\S+)/)
  const [, socket] = await find(/--socket (\S+)/)
  const [, gateway] = await find(/nsenter --net=(\S+) nft/)
  return {
    url,
    token,
    heard: find,
    say: (line) => child.stdin.write(`${line}\n`),
    run: (...args) => execFileSync(netpolicy, [...args, '--socket', socket], { encoding: 'utf8' }),
    // inGateway starts a program on the gateway; the caller ends it, and may read what it prints.
    inGateway: (...args) => spawn('nsenter', [`--net=${gateway}`, ...args], { stdio: ['ignore', 'pipe', 'inherit'] }),
    close: async () => {
      child.kill('SIGINT')
      await ended
    },
  }
}
