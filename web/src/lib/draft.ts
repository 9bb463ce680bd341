import { effect, signal } from '@preact/signals'
import { failed, toast } from './announce'
import { ApiError, post, request } from './api'
import { status } from './events'
import { dateTime } from './format'
import { t } from './i18n'
import type { Config, Stage, Syntax } from './types'

// What is being edited. It outlives a change of page, so that nothing typed is lost
// by looking something up; base and n are the ETag and the number of the policy that it was made from.
export interface Edited {
  text: string
  syntax: Syntax
  original: string
  base: string
  n: number
  name: string
  // own is the syntax of the policy's file. The text may be in the other for a while.
  own: Syntax
  // select is what the editor is to show first: a rule that was just put into the text before.
  select?: { from: number; to: number; before?: string }
  // over says that this policy came into force while the text was edited.
  over?: boolean
  // staged is the ETag of what was staged from here.
  staged?: string
}
export const edited = signal<Edited | null>(null)
export const isDirty = (e: Edited | null): e is Edited => e !== null && e.text !== e.original

// The browser asks before it forgets what was typed. Kept anywhere it could tell a
// policy's secrets.
addEventListener('beforeunload', (e) => isDirty(edited.value) && e.preventDefault())

async function inForce(): Promise<Edited> {
  const { body, etag } = await request<Config>('GET', 'config')
  return { text: body.text, original: body.text, syntax: body.syntax, own: body.syntax, base: etag, name: body.name, n: body.n }
}

// open edits the policy in force. What was typed stays, and is compared with that one
// from now on.
export async function open(): Promise<void> {
  const now = await inForce()
  const is = edited.value
  if (!isDirty(is)) edited.value = now
  else if (is.base !== now.base) edited.value = { ...is, ...now, text: is.text, syntax: is.syntax, over: true }
}

// edit opens another text as a change of the policy in force. To undo that brings back
// what was typed before.
export async function edit(text: string): Promise<void> {
  const before = edited.value?.text
  edited.value = { ...(await inForce()), text, select: { from: 0, to: 0, before } }
}

// discard edits the policy in force, whatever was typed.
export async function discard(): Promise<void> {
  edited.value = await inForce()
}

// rewrite has the daemon write the text in a better form or the other syntax. An
// answer to a text that has been typed into meanwhile is asked for again.
export async function rewrite(to?: Syntax): Promise<void> {
  for (let is = edited.value; is; is = edited.value) {
    const { text, syntax } = is
    const got = await post<{ text: string }>(to ? 'convert' : 'format', { text, syntax, to })
    const now = edited.value
    if (now?.text !== text || now.syntax !== syntax) continue
    edited.value = { ...now, text: got.text, syntax: to ?? syntax }
    return
  }
}

// staged is what is staged, whoever did it.
export async function staged(): Promise<Stage | null> {
  try {
    return (await request<Stage>('GET', 'config/stage')).body
  } catch (err) {
    if (err instanceof ApiError && err.status === 404) return null
    throw err
  }
}

// stage stages the text in the syntax of the policy's file. It is null where nothing
// was: somebody else's text is staged and to stay, or another policy came into force,
// and the next try is against that one, knowingly.
export async function stage(): Promise<Stage | null> {
  const converted = edited.value!.syntax !== edited.value!.own
  if (converted) await rewrite(edited.value!.own)
  const now = edited.value!
  const other = await staged()
  const asks = other && other.etag !== now.staged && other.text !== now.text
  if (asks && !confirm(t('change.replace', { who: other.who ?? '', time: dateTime(new Date(other.time!)) }))) return null
  try {
    const got = await post<Stage>('config/stage', { text: now.text }, { 'If-Match': now.base })
    if (converted) toast('ok', t('policy.converted', { syntax: now.own.toUpperCase() }))
    if (!got.ok) toast('error', got.error ?? t('policy.rejected'))
    else if (edited.value) edited.value = { ...edited.value, staged: got.etag, over: false }
    return got
  } catch (err) {
    if (!(err instanceof ApiError && err.status === 412)) throw err
    await open()
    toast('warning', t('change.rebased'))
    return null
  }
}

// What waits for its confirmation is edited again when it was taken back.
let waiting: { n: number; text: string } | undefined
effect(() => {
  const n = status.value?.reverted?.n
  if (!waiting || n !== waiting.n) return
  const { text } = waiting
  waiting = undefined
  if (!isDirty(edited.peek())) edit(text).catch(failed)
})

// committed ends the editing of a stage's text that has come into force, as the policy
// that waits if it does. What was typed since it was staged stays, as a change of that policy.
export async function committed({ text, etag }: Stage, waits?: number): Promise<void> {
  waiting = waits ? { n: waits, text } : undefined
  if (edited.value?.text === text) edited.value = null
  else if (edited.value) {
    const over = edited.value.staged !== etag
    await open()
    edited.value = { ...edited.value, over }
  }
}
