import { signal } from '@preact/signals'

// What a screen reader is told: at most one sentence in two seconds, the newest.
export const spoken = signal('')
const pause = 2000
let next: string | null = null
let timer: ReturnType<typeof setTimeout> | undefined

export function announce(text: string): void {
  next = text
  if (timer === undefined) say()
}

function say(): void {
  timer = undefined
  if (next === null) return
  spoken.value = next
  next = null
  timer = setTimeout(say, pause)
}

export interface Toast { id: number; kind: 'ok' | 'error' | 'warning'; text: string; timer?: ReturnType<typeof setTimeout> }
export const toasts = signal<Toast[]>([])
let last = 0

// toast shows a sentence for a while, errors for longer. One that is shown already stays
// for as long again.
export function toast(kind: Toast['kind'], text: string): void {
  let shown = toasts.value.find((x) => x.kind === kind && x.text === text)
  if (!shown) {
    shown = { id: ++last, kind, text }
    toasts.value = [...toasts.value.slice(-3), shown]
  }
  const { id } = shown
  clearTimeout(shown.timer)
  shown.timer = setTimeout(() => dismiss(id), kind === 'error' ? 15_000 : 6000)
}

export function dismiss(id: number): void {
  toasts.value = toasts.value.filter((t) => t.id !== id)
}

// failed shows what went wrong with something that was asked for.
export function failed(err: unknown): void {
  toast('error', err instanceof Error ? err.message : String(err))
}
