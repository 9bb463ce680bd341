import type { ComponentChildren } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { failed, toast } from '../lib/announce'
import { type Key, t } from '../lib/i18n'
import type { Severity, State } from '../lib/types'
import { Icon, type IconName } from './icon'

const stateShapes = {
  NORMAL: { tone: 'ok', d: 'M5 0a5 5 0 1 0 0 10A5 5 0 0 0 5 0' },
  DEGRADED: { tone: 'warn', d: 'M5 .5L10 9.5H0z' },
  FAILOVER: { tone: 'bad', d: 'M5 0l5 5-5 5-5-5z' },
  RECOVERY: { tone: 'info', d: 'M5 0a5 5 0 0 0 0 10V8.4a3.4 3.4 0 0 1 0-6.8zM5 0a5 5 0 0 1 0 10z' },
  '': { tone: 'muted', d: 'M0 4h10v2H0z' },
} as const

export const stateTone = (s: State) => stateShapes[s]?.tone ?? 'muted'

// StateMark tells a state by shape and colour, and in words unless a text beside it does.
export function StateMark({ state, bare = false }: { state: State; bare?: boolean }) {
  const shape = stateShapes[state] ?? stateShapes['']
  const label = t(`state.${state || 'none'}` as Key)
  return (
    <span class={`state ${shape.tone}`}>
      <svg viewBox="0 0 10 10" role={bare ? 'img' : undefined} aria-label={bare ? label : undefined} aria-hidden={bare ? undefined : 'true'}>
        <path d={shape.d} />
      </svg>
      {!bare && label}
    </span>
  )
}

const severities = { error: ['bad', 'alert'], warning: ['warn', 'alert'], hint: ['info', 'infoMark'] } as const
export function SeverityMark({ severity }: { severity: Severity }) {
  const [tone, icon] = severities[severity]
  return (
    <span class={`state ${tone}`}>
      <Icon name={icon} />
      {t(`severity.${severity}`)}
    </span>
  )
}

export function Note({ kind = 'info', onClose, children }: { kind?: 'info' | 'ok' | 'warning' | 'error'; onClose?: () => void; children: ComponentChildren }) {
  const icon: IconName = kind === 'ok' ? 'check' : kind === 'info' ? 'infoMark' : 'alert'
  return (
    <div class={`note ${kind}`} role={kind === 'error' ? 'alert' : 'status'}>
      <Icon name={icon} />
      <div class="grow">{children}</div>
      {onClose && <Close onClick={onClose} />}
    </div>
  )
}

export function Close({ onClick }: { onClick: () => void }) {
  return (
    <button type="button" class="icon plain" aria-label={t('close')} onClick={onClick}>
      <Icon name="close" />
    </button>
  )
}

// Mono is a text of the machine's: an address, a name, a rule. It reads from left
// to right in any language, and is a text node: nothing in it is ever markup. Where it
// may be cut its title has all of it.
export function Mono({ children, cut = false, title }: { children: ComponentChildren; cut?: boolean; title?: string }) {
  return (
    <bdi class={cut ? 'mono cut' : 'mono'} dir="ltr" title={title ?? (cut ? String(children ?? '') : undefined)}>
      {children}
    </bdi>
  )
}

export function Title({ page, children }: { page: Key; children?: ComponentChildren }) {
  return (
    <div class="title">
      <h1 id="page">{t(page)}</h1>
      {children}
    </div>
  )
}

export function CopyButton({ text, label }: { text: string; label?: string }) {
  const copy = async () => {
    try {
      await copyText(text)
      toast('ok', t('copied'))
    } catch (err) {
      failed(err)
    }
  }
  return (
    <button type="button" onClick={copy} class={label ? '' : 'icon plain'} aria-label={label ? undefined : t('copy')} title={t('copy')}>
      <Icon name="copy" />
      {label}
    </button>
  )
}

// The clipboard's interface exists on loopback and over TLS alone, and may be refused; a
// text that is selected and copied does the same. Beside an open dialog none is selected.
export async function copyText(text: string): Promise<void> {
  try {
    return await navigator.clipboard.writeText(text)
  } catch {
    // There is another way.
  }
  const area = document.createElement('textarea')
  area.value = text
  ;(document.querySelector('dialog[open]') ?? document.body).append(area)
  area.select()
  const done = document.execCommand('copy')
  area.remove()
  if (!done) throw new Error(t('copy.failed'))
}

// Dialog is a modal while it is drawn; Escape and a click beside it close it.
export function Dialog({ title, onClose, children }: { title: string; onClose: () => void; children: ComponentChildren }) {
  const ref = useRef<HTMLDialogElement>(null)
  useEffect(() => {
    const before = document.activeElement
    ref.current?.showModal()
    return () => {
      if (before instanceof HTMLElement && before.isConnected) before.focus()
    }
  }, [])
  return (
    <dialog ref={ref} aria-label={title} onClose={onClose} onClick={(e) => e.target === ref.current && onClose()}>
      <div>
        <div class="title">
          <h2 class="grow">{title}</h2>
          <Close onClick={onClose} />
        </div>
        {children}
      </div>
    </dialog>
  )
}

// useAsk asks for something once and again when its keys change.
export function useAsk<T>(ask: () => Promise<T>, keys: unknown[]): { value: T | null; error: string; again: () => void } {
  const [value, setValue] = useState<T | null>(null)
  const [error, setError] = useState('')
  const [turn, setTurn] = useState(0)
  useEffect(() => {
    let gone = false
    ask().then(
      (v) => {
        if (gone) return
        setValue(v)
        setError('')
      },
      (err) => !gone && setError(err instanceof Error ? err.message : String(err)),
    )
    return () => {
      gone = true
    }
  }, [...keys, turn])
  return { value, error, again: () => setTurn((n) => n + 1) }
}

// useEvery calls again and again while the page is drawn and looked at.
export function useEvery(call: () => void, ms: number): void {
  const latest = useRef(call)
  latest.current = call
  useEffect(() => {
    const timer = setInterval(() => document.hidden || latest.current(), ms)
    return () => clearInterval(timer)
  }, [ms])
}

export function Tabs<T extends string>({ label, tabs, value, onChange }: { label: string; tabs: { id: T; text: string }[]; value: T; onChange: (v: T) => void }) {
  const move = (e: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key]
    if (!step) return
    const rtl = document.documentElement.dir === 'rtl' ? -1 : 1
    const at = (tabs.findIndex((x) => x.id === value) + step * rtl + tabs.length) % tabs.length
    onChange(tabs[at]!.id)
    ;(e.currentTarget as HTMLElement).querySelectorAll('button')[at]?.focus()
  }
  return (
    <div class="tabs" role="tablist" aria-label={label} onKeyDown={move}>
      {tabs.map((x) => (
        <button key={x.id} type="button" role="tab" aria-selected={x.id === value} tabIndex={x.id === value ? 0 : -1} onClick={() => onChange(x.id)}>
          {x.text}
        </button>
      ))}
    </div>
  )
}
