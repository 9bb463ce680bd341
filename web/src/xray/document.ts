import { batch, signal } from '@preact/signals'
import type { Change, CoreVersion, Format, Formatted, Generator, Line, Loss, View, Written, XFinding } from './core'

const debounce = 200

// Source is a text that is not of our writing: as it came, or as it was typed into one
// that was written of profiles. It stands while the profiles are those that it says.
interface Source {
  text: string
  says: View[]
  of?: Written
  error: string // why it can't be read
  losses: Loss[] // what is in it and would not be in the same format written anew
  lost: Loss[] // what the format can't say of the profiles
  accepted?: boolean // it may be written over
}
// Sources are by their formats. They are replaced when a text comes, not changed.
type Sources = Partial<Record<Format, Source>>

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
  // held is that the text still is the user's, since it would lose those if it were
  // written anew from the profiles, which have been edited.
  readonly held = signal(false)
  readonly losses = signal<Loss[]>([])
  readonly findings = signal<XFinding[]>([])
  // refused are values that were typed and can't be, by key, of the profile that is shown.
  readonly refused = signal<Record<string, { value: string; why: string }>>({})
  // gone is what there was before profiles went.
  readonly gone = signal<{ sources: Sources; lines: Line[]; format: Format; profiles: View[] } | null>(null)
  // turn counts the texts that were taken, draft those that were written: an answer to an older one is dropped.
  private turn = 0
  private draft = 0
  private sources: Sources = {}
  // lines are those of a list of links that are none: empty ones and comments.
  private lines: Line[] = []
  // of is what the text was written of, whatever has been typed into it since.
  private of: Written | undefined
  private queue: Promise<unknown> = Promise.resolve()
  private reading: Promise<void> = Promise.resolve()
  private timer: ReturnType<typeof setTimeout> | undefined

  constructor(readonly generator: Generator) {}

  get shown(): View | undefined {
    return this.profiles.value[this.at.value]
  }
  private was() {
    return this.gone.value ?? { sources: this.sources, lines: this.lines, format: this.format.value, profiles: this.profiles.value }
  }

  // type takes a text that is being typed, and reads it shortly after the last key. An
  // edit of what was there before that is under way is void: it would write over the keys.
  type(text: string): void {
    this.turn++
    this.text.value = text
    clearTimeout(this.timer)
    this.timer = setTimeout(() => void this.write(text, this.of), debounce)
  }

  // write takes a text that is whole, in whatever format it is. Where it is an edit of
  // one that was written, what that could not say stays.
  write(text: string, of?: Written): Promise<void> {
    return (this.reading = this.take(text, of))
  }

  private async take(text: string, of?: Written): Promise<void> {
    clearTimeout(this.timer)
    this.timer = undefined
    const turn = ++this.turn
    this.text.value = text
    this.of = of
    let got: Awaited<ReturnType<typeof this.read>> = { format: this.format.value, profiles: [], lines: [], losses: [] }
    let error = ''
    try {
      if (text.trim()) got = await this.read(text, of)
    } catch (err) {
      error = message(err)
    }
    if (turn !== this.turn) return
    batch(() => {
      const was = this.was()
      if (!error) {
        if (!got.lost || got.format === 'link') this.lines = got.lines
        this.profiles.value = got.profiles
        this.gone.value = got.profiles.length < was.profiles.length ? was : null
        this.choose(Math.min(this.at.value, Math.max(0, got.profiles.length - 1)))
      }
      this.format.value = got.format
      const source = { text, says: this.profiles.value, of, error, losses: got.losses, lost: got.lost ?? [] }
      // Beside an edit of one that was written the others go on.
      this.sources = { ...((error ? of : got.lost) && this.sources), [got.format]: source }
      this.error.value = error
      this.held.value = false
      this.losses.value = source.lost
      this.findings.value = []
    })
  }

  // read reads a text. The lines of new profiles go on behind those of the old ones.
  private async read(text: string, of?: Written) {
    const got = await this.generator.parse(text, this.core.value, of)
    let last = this.last()
    const profiles = got.profiles.map((p) => {
      const was = of?.profiles[p.from ?? -1]
      const line = p.line ?? (got.lost ? (was?.line ?? ++last) : 1)
      return p.kept && line === was!.line ? was! : { ...(p.kept ? was! : p), line }
    })
    return {
      ...got,
      // A format that is read only (wg-quick) is shown as links once it is written again.
      format: got.format === 'wg-quick' ? 'link' : (got.format as Format),
      // Where nothing has changed the profiles are the very same, for all that is known of them.
      profiles: of?.profiles.length === profiles.length && profiles.every((p, i) => p === of.profiles[i]) ? of.profiles : profiles,
      // A list of links keeps all of its lines: comments, and what can't be read.
      lines: got.lines ?? [],
      losses: got.losses.filter((l) => got.format !== 'link' || !l.why),
    }
  }

  // last is the last line that there is.
  private last(): number {
    return [...this.lines, ...this.profiles.value].reduce((n, l) => Math.max(n, l.line!), 0)
  }

  // settle waits until the text is read.
  private settle(): Promise<void> {
    return this.timer === undefined ? this.reading : this.write(this.text.value, this.of)
  }

  // add appends the profiles of a text, in whatever format it is.
  async add(text: string): Promise<void> {
    await this.settle()
    if (!this.text.value.trim() && this.profiles.value.length === 0) return this.write(text)
    return this.next(async () => {
      const got = await this.read(text)
      const last = this.last()
      const behind = <T extends { line?: number }>(l: T) => ({ ...l, line: last + l.line! })
      this.turn++
      this.lines = [...this.lines, ...got.lines.map(behind)]
      batch(() => {
        this.choose(this.profiles.value.length)
        this.profiles.value = [...this.profiles.value, ...got.profiles.map(behind)]
        this.gone.value = null
      })
      await this.rewrite()
    })
  }

  // back brings back the profiles that are gone.
  async back(): Promise<void> {
    const was = this.gone.value
    if (!was) return
    this.turn++
    clearTimeout(this.timer)
    this.timer = undefined
    this.sources = was.sources
    this.lines = was.lines
    batch(() => {
      this.format.value = was.format
      this.profiles.value = was.profiles
      this.choose(0)
      this.gone.value = null
    })
    await this.rewrite()
  }

  // show writes the text in another format.
  async show(format: Format): Promise<void> {
    await this.settle()
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
    batch(() => {
      this.gone.value = null
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
      // A text as it came says the same by other rules; what was typed is written anew.
      for (const s of Object.values(this.sources)) if (s.says === this.profiles.value && !s.of) s.says = next
      this.profiles.value = next
      this.gone.value = null
      await this.rewrite()
    })
  }

  async remove(): Promise<void> {
    const i = this.at.value
    this.turn++ // what is under way is about profiles by their places
    batch(() => {
      this.gone.value = this.was()
      this.profiles.value = this.profiles.value.filter((_, n) => n !== i)
      this.choose(Math.max(0, i - 1))
    })
    await this.rewrite()
  }

  // accept writes over the text that was held; undo takes the edits back instead.
  async accept(): Promise<void> {
    this.sources[this.format.value]!.accepted = true
    await this.rewrite()
  }
  undo(): Promise<void> {
    const source = this.sources[this.format.value]!
    return this.write(source.text, source.of)
  }

  // links are a line each, in the form that each came in; lines that could not be read stay.
  private links(): string {
    const rows = this.profiles.value.map((p) => ({ line: p.line!, text: p.ok ? p.link : p.raw }))
    const all = [...this.lines, ...rows.filter((r) => r.text)]
    return all.sort((a, b) => a.line - b.line).map((r) => r.text).join('\n').trimEnd() + '\n'
  }

  private async rewrite(): Promise<void> {
    const [turn, draft] = [this.turn, ++this.draft]
    const profiles = this.profiles.value
    const states = profiles.flatMap((p) => p.state ?? [])
    const format = this.format.value
    const source = this.sources[format]
    const stands = source?.says === profiles
    let out: Formatted = { text: '', losses: [], findings: [] }
    try {
      if (stands) out = { ...out, text: source.text, losses: source.lost }
      else if (format === 'link') out.text = this.links()
      else if (states.length > 0) out = await this.generator.format(states, format, this.core.value)
    } catch (err) {
      if (turn === this.turn && draft === this.draft) this.error.value = message(err)
      return
    }
    if (turn !== this.turn || draft !== this.draft) return
    const others = Object.values(this.sources).flatMap((s) => s.losses.filter((l) => l.why))
    const losses = stands ? out.losses : [...others, ...out.losses]
    const asks = source && !stands && !source.accepted ? source : undefined
    const lost = asks?.of ? asks.losses : losses
    const held = !!asks && (!!asks.error || lost.length > 0)
    this.of = stands ? source.of : { to: format, profiles: format === 'link' && profiles.some((p) => p.raw) ? profiles.filter((p) => !p.raw) : profiles }
    batch(() => {
      this.error.value = stands || held ? source!.error : ''
      this.held.value = held
      this.text.value = held ? source!.text : out.text
      this.losses.value = held ? lost : losses
      this.findings.value = out.findings
    })
  }
}

export const message = (err: unknown) => (err instanceof Error ? err.message : String(err))
