import { signal } from '@preact/signals'
import { post, request } from './api'
import type { Config, Stage, Syntax } from './types'

// What is being edited. It outlives a change of page, so that nothing typed is lost
// by looking something up; base is the ETag of the policy that it was made from.
export interface Edited {
  text: string
  syntax: Syntax
  original: string
  base: string
  name: string
  // own is the syntax of the policy's file. The text may be in the other for a while.
  own: Syntax
  // select is what the editor is to show first: a rule that was just put in.
  select?: { from: number; to: number }
}
export const edited = signal<Edited | null>(null)
export const isDirty = (e: Edited | null): e is Edited => e !== null && e.text !== e.original

async function inForce(): Promise<Edited> {
  const { body, etag } = await request<Config>('GET', 'config')
  return { text: body.text, original: body.text, syntax: body.syntax, own: body.syntax, base: etag, name: body.name }
}

// open edits the policy in force, unless something was typed before it has come.
export async function open(): Promise<void> {
  const now = await inForce()
  if (!isDirty(edited.value)) edited.value = now
}

// discard edits the policy in force, whatever was typed.
export async function discard(): Promise<void> {
  edited.value = await inForce()
}

// rebase keeps what was typed, and has it compared with the policy in force.
export async function rebase(): Promise<void> {
  const now = await inForce()
  if (edited.value) edited.value = { ...now, text: edited.value.text, syntax: edited.value.syntax }
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

// stage stages the text in the syntax of the policy's file, and says whether it had
// to be written in that first.
export async function stage(): Promise<Stage & { converted: boolean }> {
  const converted = edited.value!.syntax !== edited.value!.own
  if (converted) await rewrite(edited.value!.own)
  const now = edited.value!
  return { ...(await post<Stage>('config/stage', { text: now.text }, { 'If-Match': now.base })), converted }
}

// committed ends the editing of a text that has come into force. What was typed since
// it was staged stays, as a change of that policy.
export async function committed(text: string): Promise<void> {
  if (edited.value?.text === text) edited.value = null
  else if (edited.value) await rebase()
}
