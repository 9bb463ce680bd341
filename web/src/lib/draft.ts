import { signal } from '@preact/signals'
import type { Syntax } from './types'

// What is being edited. It outlives a change of page, so that nothing typed is lost
// by looking something up; base is the ETag of the policy that it was made from.
export interface Edited {
  text: string
  syntax: Syntax
  original: string
  base: string
  name: string
  // select is what the editor is to show first: a rule that was just put in.
  select?: { from: number; to: number }
}
export const edited = signal<Edited | null>(null)
