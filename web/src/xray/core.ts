// The generator is Go (xray/generator): the daemon has it behind its API, and the
// page that needs no server has it as WebAssembly. Both answer the same JSON.
export interface State { form: string; scheme: string; name: string; host: string; port: string; user: string; password: string; params: { key: string; value: string; json?: boolean }[] }
export type Origin = 'link' | 'default' | 'migrated'
export interface Field { key: string; value: string; origin: Origin; was?: string; known: boolean; secret?: boolean }
export interface Change { key: string; value: string | null; note?: string }
export interface XFinding { severity: 'error' | 'warning' | 'hint'; key?: string; path?: string; offset?: number; message: string; help?: string; fix?: Change }
export interface Loss { format: string; keys: string[]; left?: boolean; why?: string }
export interface View {
  line?: number; from?: number; kept?: boolean; ok: boolean; protocol?: string; transport?: string; security?: string; state?: State; link?: string
  fields: Field[]; findings: XFinding[]; losses: Loss[]
  raw?: string // the line of a link that could not be read; ours
}
export interface Input {
  key: string; kind: 'text' | 'secret' | 'number' | 'choice' | 'toggle' | 'list' | 'json'; group: 'server' | 'transport' | 'security'
  choices?: string[]; default?: string; required?: boolean; help: string
}
export interface Parsed { format: string; profiles: View[]; losses: Loss[]; lost?: Loss[]; lines?: Line[] }
export interface Line { line: number; text: string }
// Written is what a text was written of, before it was edited.
export interface Written { to: Format; profiles: View[] }
export type CoreVersion = '26.3' | '26.7'
export type Format = 'link' | 'base64' | 'clash' | 'singbox' | 'sip008' | 'xray'
export interface Formatted { text: string; losses: Loss[]; findings: XFinding[] }

// call asks the generator a function by its name.
export type Call = <T>(name: 'parse' | 'edit' | 'format' | 'build' | 'fields' | 'begin' | 'pin', request: object) => Promise<T>

export class Generator {
  constructor(readonly call: Call) {}
  // A profile without a state could not be read; it goes as null.
  parse = (text: string, core: CoreVersion, of?: Written) =>
    this.call<Parsed>('parse', { text, core, secrets: true, written: of && { to: of.to, states: of.profiles.map((p) => p.state) } })
  edit = (state: State, changes: Change[], core: CoreVersion) => this.call<View>('edit', { state, changes: changes.map(({ key, value }) => ({ key, value })), core })
  format = (states: State[], to: Format, core: CoreVersion) => this.call<Formatted>('format', { states, to, core })
  begin = (protocol: string) => this.call<{ text: string }>('begin', { protocol, random: btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(80)))) })
  pin = (text: string) => this.call<{ pin: string }>('pin', { text })
  fields = (v: View) => this.call<Input[]>('fields', { protocol: v.protocol, transport: v.transport ?? '', security: v.security ?? '' })
}
