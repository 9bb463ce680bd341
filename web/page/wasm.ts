import type { Call } from '../src/xray/core'

interface Go { importObject: WebAssembly.Imports; run: (instance: WebAssembly.Instance) => Promise<void> }
declare global {
  var Go: new () => Go
  var netpolicyXray: (name: string, request: string) => string
}

// load starts the core, which scripts/page.sh puts beside the page with Go's own wasm_exec.js.
export async function load(): Promise<Call> {
  await script('./wasm_exec.js')
  const go = new Go()
  const answer = await fetch('./generator.wasm')
  if (!answer.ok) throw new Error(`generator.wasm: ${answer.status} ${answer.statusText}`)
  // Not instantiateStreaming: that wants a type that plain file servers do not always give.
  const { instance } = await WebAssembly.instantiate(await answer.arrayBuffer(), go.importObject)
  void go.run(instance)
  return async (name, request) => {
    const reply = JSON.parse(netpolicyXray(name, JSON.stringify(request))) as { error?: string }
    if (reply.error !== undefined && !Array.isArray(reply)) throw new Error(reply.error)
    return reply as never
  }
}

const script = (src: string) =>
  new Promise<void>((done, fail) => {
    const e = document.createElement('script')
    e.src = src
    e.onload = () => done()
    e.onerror = () => fail(new Error(`${src} can't be loaded`))
    document.head.append(e)
  })
