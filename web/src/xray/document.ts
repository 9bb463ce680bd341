import { batch, signal } from '@preact/signals'
import type { Change, CoreVersion, Format, Formatted, Generator, Loss, View, XFinding } from './core'

const debounce = 200

// Document is one set of profiles and a text that says them, in a format. Either
// can be edited: the text is read again, or written again.
export class XrayDocument {
  readonly text = signal('')
  readonly format = signal<Format>('link')
  readonly profiles = signal<View[]>([])
  readonly at = signal(0)
  readonly core = signal<CoreVersion>('26.3')
  // error is why nothing of the text can be read.
  readonly error = signal('')
  // losses and findings are those of writing the text in its format.
  // held is that the text is still as it came, since it would lose those if it were
  // written anew from the profiles, which have been edited.
  readonly held = signal(false)
  readonly losses = signal<Loss[]>([])
  readonly findings = signal<XFinding[]>([])
  // refused are values that were typed and can't be, by key, of the profile that is shown.
  readonly refused = signal<Record<string, { value: string; why: string }>>({})
  // turn counts the texts that were taken, draft those that were written: an answer to an older one is dropped.
  private turn = 0
  private draft = 0
  // came is the text as it came, with what is lost of it if its profiles are written
  // anew; lines are those of a list of links that are none: empty ones and comments.
  private came: { text: string; format: Format; losses: Loss[] } = { text: '', format: 'link', losses: [] }
  private lines: { line: number; text: string }[] = []
  private edited = false
  private accepted = false
  private queue: Promise<unknown> = Promise.resolve()
  private timer: ReturnType<typeof setTimeout> | undefined

  constructor(readonly generator: Generator) {}

  get shown(): View | undefined {
    return this.profiles.value[this.at.value]
  }
  private states() {
    return this.profiles.value.flatMap((p) => (p.ok && p.state ? [p.state] : []))
  }

  private take(text: string, format: Format, losses: Loss[], lines: { line: number; text: string }[] = []): void {
    this.came = { text, format, losses }
    this.lines = lines
    this.edited = this.accepted = this.held.value = false
  }

  // type takes a text that is being typed, and reads it shortly after the last key. An
  // edit of what was there before that is under way is void: it would write over the keys.
  type(text: string): void {
    this.turn++
    this.text.value = text
    clearTimeout(this.timer)
    this.timer = setTimeout(() => void this.write(text), debounce)
  }

  // write takes a text that is whole, in whatever format it is.
  async write(text: string): Promise<void> {
    clearTimeout(this.timer)
    const turn = ++this.turn
    this.text.value = text
    if (!text.trim()) {
      batch(() => {
        this.take(text, this.format.value, [])
        this.profiles.value = []
        this.error.value = ''
        this.losses.value = []
        this.findings.value = []
      })
      return
    }
    let got: { format: string; profiles: View[]; losses: Loss[] }
    try {
      got = await this.generator.parse(text, this.core.value)
    } catch (err) {
      if (turn !== this.turn) return
      batch(() => {
        this.error.value = message(err)
        this.take(text, this.format.value, [{ format: this.format.value, keys: [], left: true, why: this.error.value }])
      })
      return
    }
    if (turn !== this.turn) return
    batch(() => {
      this.error.value = ''
      // A format that is read only (wg-quick) is shown as links once it is written again.
      const format = (['link', 'base64', 'clash', 'singbox', 'sip008', 'xray'] as const).find((f) => f === got.format) ?? 'link'
      const links = got.format === 'link'
      const lines = text.split('\n').map((text, i) => ({ text, line: i + 1 }))
      // A list of links keeps all of its lines: comments, and what can't be read.
      if (links) this.take(text, format, [], lines.filter((l) => !got.profiles.some((p) => (p.line ?? l.line) === l.line)))
      else this.take(text, format, got.losses)
      this.format.value = format
      this.profiles.value = got.profiles.map((p) => (!p.ok && links ? { ...p, raw: lines[(p.line ?? 1) - 1]!.text } : p))
      this.at.value = Math.min(this.at.value, Math.max(0, got.profiles.length - 1))
      this.refused.value = {}
      this.losses.value = []
      this.findings.value = []
    })
  }

  // show writes the text in another format.
  async show(format: Format): Promise<void> {
    this.format.value = format
    await this.rewrite()
  }

  // change edits the profile that is shown, and writes the text anew. A value that
  // can't be is kept as it was typed, with the reason, and changes nothing. Changes
  // are made one after the other: each begins with what the one before has left.
  change(changes: Change[]): Promise<boolean> {
    const [i, turn] = [this.at.value, this.turn]
    return this.next(() => (turn === this.turn ? this.edit(i, changes) : Promise.resolve(false)))
  }

  private async edit(i: number, changes: Change[]): Promise<boolean> {
    const before = this.profiles.value[i]
    if (!before?.state) return false
    const turn = this.turn
    const key = changes[0]?.key ?? ''
    let after: View | null = null
    let why = ''
    try {
      after = await this.generator.edit(before.state, changes, this.core.value)
      why = after.ok ? '' : (after.findings.find((f) => f.severity === 'error')?.message ?? '')
    } catch (err) {
      why = message(err)
    }
    if (turn !== this.turn) return false
    const shown = i === this.at.value
    if (!after?.ok) {
      if (shown) this.refused.value = { ...this.refused.value, [key]: { value: changes[0]?.value ?? '', why } }
      return false
    }
    const { [key]: _, ...others } = this.refused.value
    const done = after
    this.edited = true
    batch(() => {
      if (shown) this.refused.value = others
      this.profiles.value = this.profiles.value.map((p, n) => (n === i ? { ...done, line: before.line } : p))
    })
    await this.rewrite()
    return true
  }

  private next<T>(work: () => Promise<T>): Promise<T> {
    const run = this.queue.then(work)
    this.queue = run.catch(() => undefined)
    return run
  }

  choose(i: number): void {
    batch(() => {
      this.at.value = i
      this.refused.value = {}
    })
  }

  // useCore looks at all profiles by the rules of another version of Xray.
  useCore(core: CoreVersion): Promise<void> {
    this.core.value = core
    return this.next(async () => {
      const turn = this.turn
      const next = await Promise.all(this.profiles.value.map(async (p) => (p.ok && p.state ? { ...(await this.generator.edit(p.state, [], core)), line: p.line } : p)))
      if (turn !== this.turn) return
      this.profiles.value = next
      if (this.format.value === 'xray') await this.rewrite()
    })
  }

  async remove(): Promise<void> {
    const i = this.at.value
    this.turn++ // what is under way is about profiles by their places
    this.edited = true
    batch(() => {
      this.profiles.value = this.profiles.value.filter((_, n) => n !== i)
      this.at.value = Math.max(0, i - 1)
      this.refused.value = {}
    })
    await this.rewrite()
  }

  // accept writes the text that was held; undo takes the edits back instead.
  async accept(): Promise<void> {
    this.accepted = true
    await this.rewrite()
  }
  undo(): Promise<void> {
    return this.write(this.came.text)
  }

  // links are a line each, in the form that each came in; lines that could not be read stay.
  private links(): string {
    const rows = this.profiles.value.map((p) => ({ line: p.line ?? 1, text: p.ok ? p.link : p.raw }))
    const all = [...this.lines, ...rows.filter((r) => r.text)]
    return all.sort((a, b) => a.line - b.line).map((r) => r.text).join('\n').trimEnd() + '\n'
  }

  private async rewrite(): Promise<void> {
    const [turn, draft] = [this.turn, ++this.draft]
    const states = this.states()
    const format = this.format.value
    const { came } = this
    const own = format === came.format
    let out: Formatted = { text: '', losses: [], findings: [] }
    try {
      if (own && !this.edited) out.text = came.text
      else if (format === 'link') out.text = this.links()
      else if (states.length > 0) out = await this.generator.format(states, format, this.core.value)
    } catch (err) {
      if (turn === this.turn && draft === this.draft) this.error.value = message(err)
      return
    }
    if (turn !== this.turn || draft !== this.draft) return
    const losses = own && !this.edited ? [] : [...came.losses.filter((l) => l.why), ...out.losses]
    batch(() => {
      this.error.value = ''
      this.held.value = own && losses.length > 0 && !this.accepted
      this.text.value = this.held.value ? came.text : out.text
      this.losses.value = losses
      this.findings.value = out.findings
    })
  }
}

export const message = (err: unknown) => (err instanceof Error ? err.message : String(err))
