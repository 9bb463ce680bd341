import { useSignalEffect } from '@preact/signals'
import { Component, type ComponentChildren, type ComponentType } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { announce, dismiss, failed, spoken, toasts } from './lib/announce'
import { post, resume, session, signedOut } from './lib/api'
import { connected, on, startEvents, status, stopEvents } from './lib/events'
import { countdown, ms, number } from './lib/format'
import { type Key, language, t, tn } from './lib/i18n'
import { go, link, place } from './lib/router'
import { dark, setTheme, theme } from './lib/theme'
import type { ChangeResult, Status } from './lib/types'
import { Login } from './pages/login'
import { Icon, type IconName } from './ui/icon'
import { Dialog, Mono, Note, StateMark, useEvery } from './ui/parts'

interface Page { id: string; key: string; load: () => Promise<{ default: ComponentType }> }
const pages: Page[] = [
  { id: 'connections', key: 'c', load: () => import('./pages/connections') },
  { id: 'explain', key: 'e', load: () => import('./pages/explain') },
  { id: 'state', key: 's', load: () => import('./pages/state') },
  { id: 'uplinks', key: 'u', load: () => import('./pages/uplinks') },
  { id: 'policy', key: 'p', load: () => import('./pages/policy') },
  { id: 'change', key: 'h', load: () => import('./pages/change') },
  { id: 'xray', key: 'x', load: () => import('./pages/xray') },
  { id: 'logs', key: 'l', load: () => import('./pages/logs') },
  { id: 'settings', key: 'o', load: () => import('./pages/settings') },
]
const pageOf = (id: string) => pages.find((p) => p.id === id) ?? pages[0]!

export function App() {
  const [unreachable, setUnreachable] = useState(session.value === null && !signedOut.value)
  useEvery(() => {
    if (unreachable) resume().then(() => setUnreachable(false), () => undefined)
  }, 2000)
  if (unreachable) {
    return (
      <main class="login">
        <div class="stack">
          <h1>netpolicy</h1>
          <Note kind="error">{t('unreachable')}</Note>
        </div>
      </main>
    )
  }
  return session.value === null ? <Login /> : <Shell />
}

function Shell() {
  const [menu, setMenu] = useState(false)
  const [help, setHelp] = useState(false)
  const main = useRef<HTMLElement>(null)
  const here = pageOf(place.value.page)
  const [shown, setShown] = useState<{ id: string; page: ComponentType } | null>(null)

  useEffect(() => {
    startEvents()
    return stopEvents
  }, [])
  useEffect(() => {
    let gone = false
    here.load().then((m) => !gone && setShown({ id: here.id, page: m.default }), failed)
    setMenu(false)
    return () => {
      gone = true
    }
  }, [here.id])
  // A page that was gone to has the focus and its name in the window's title. The
  // first one is left alone: the focus is where a reader begins.
  const first = useRef(true)
  useEffect(() => {
    if (!shown) return
    if (!first.current) {
      main.current?.focus({ preventScroll: true })
      scrollTo(0, 0)
    }
    first.current = false
  }, [shown?.id])
  useSignalEffect(() => {
    document.title = `${t(`nav.${pageOf(place.value.page).id}` as Key)} · netpolicy`
  })
  useShortcuts(() => setHelp(true))
  useEffect(
    () =>
      on('transitions', (e) => announce(t('announce.transition', { uplink: e.uplink || t('host'), state: t(`state.${e.to || 'none'}` as Key), why: e.why }))),
    [],
  )

  const Current = shown?.page
  return (
    <div class="shell">
      <button type="button" class="skip" onClick={() => main.current?.focus()}>
        {t('skip')}
      </button>
      <Side open={menu} here={here.id} onHelp={() => setHelp(true)} onClose={() => setMenu(false)} />
      <div>
        <Strip onMenu={() => setMenu(!menu)} open={menu} />
        <Banners />
      </div>
      <main ref={main} tabIndex={-1} aria-labelledby="page" onClick={() => setMenu(false)}>
        {Current && (
          <Guard key={shown.id}>
            <Current />
          </Guard>
        )}
      </main>
      <Toasts />
      <div class="sr" role="status" aria-live="polite">
        {spoken.value}
      </div>
      {help && <Help onClose={() => setHelp(false)} />}
    </div>
  )
}

// Guard keeps a page that fails from taking the others with it.
class Guard extends Component<{ children: ComponentChildren }, { error: string }> {
  override state = { error: '' }
  override componentDidCatch(err: unknown): void {
    this.setState({ error: err instanceof Error ? err.message : String(err) })
    console.error(err)
  }
  override render() {
    if (!this.state.error) return this.props.children
    return (
      <>
        <h1 id="page">{t('failed')}</h1>
        <Note kind="error">{this.state.error}</Note>
        <div class="bar">
          <button type="button" onClick={() => this.setState({ error: '' })}>
            {t('failed.again')}
          </button>
        </div>
      </>
    )
  }
}

function Side({ open, here, onHelp, onClose }: { open: boolean; here: string; onHelp: () => void; onClose: () => void }) {
  const themes: Record<string, { icon: IconName; next: 'system' | 'light' | 'dark' }> = {
    system: { icon: 'auto', next: dark.value ? 'light' : 'dark' },
    light: { icon: 'sun', next: 'dark' },
    dark: { icon: 'moon', next: 'system' },
  }
  const now = themes[theme.value]!
  return (
    <aside class={open ? 'side open' : 'side'} id="side" onKeyDown={(e) => e.key === 'Escape' && onClose()}>
      <div class="brand">
        <svg viewBox="0 0 32 32" aria-hidden="true">
          <rect width="32" height="32" rx="7" fill="#0f5257" />
          <path d="M6 16h6l8-7h6M12 16l8 7h6" fill="none" stroke="#fff" stroke-width="2.4" stroke-linecap="round" stroke-linejoin="round" />
          <circle cx="12" cy="16" r="3" fill="#ffc857" />
        </svg>
        netpolicy
      </div>
      <nav aria-label={t('nav')}>
        <ul>
          {pages.map((p) => (
            <li key={p.id}>
              <a href={link(p.id)} aria-current={p.id === here ? 'page' : undefined} onClick={onClose}>
                <Icon name={p.id as IconName} />
                {t(`nav.${p.id}` as Key)}
              </a>
            </li>
          ))}
        </ul>
      </nav>
      <div class="foot">
        <button type="button" class="icon plain" aria-label={`${t('theme')}: ${t(`theme.${theme.value}`)}`} title={`${t('theme')}: ${t(`theme.${theme.value}`)}`} onClick={() => setTheme(now.next)}>
          <Icon name={now.icon} />
        </button>
        <button type="button" class="icon plain" aria-label={t('help')} title={t('help')} onClick={onHelp}>
          <Icon name="help" />
        </button>
      </div>
    </aside>
  )
}

// Strip is what is to be seen on every page: the state, each line, and whether this is live.
function Strip({ onMenu, open }: { onMenu: () => void; open: boolean }) {
  const s = status.value
  return (
    <header class="strip">
      <button type="button" class="icon plain burger" aria-label={t('menu')} aria-expanded={open} aria-controls="side" onClick={onMenu}>
        <Icon name="menu" />
      </button>
      {s && (
        <>
          <a class="line" href={link('state')}>
            <StateMark state={s.state} />
          </a>
          {s.uplinks.map((u) => (
            <a key={u.name} class="line" href={link('uplinks')}>
              <StateMark state={u.state} bare />
              <Mono>{u.name}</Mono>
              <span class={`num ${u.up ? 'muted' : 'bad'}`}>{!u.up ? t('uplink.down') : u.rtt_ms >= 0 ? ms(u.rtt_ms) : t('unknown')}</span>
            </a>
          ))}
          <span class="muted">{tn('connections', s.flows)}</span>
          {s.mode === 'observe' && <span class="tag warn">{t('mode.observe')}</span>}
        </>
      )}
      <span class={`live state ${connected.value ? 'ok' : 'bad'}`}>
        <svg viewBox="0 0 10 10" aria-hidden="true">
          <path d={connected.value ? 'M5 2a3 3 0 1 0 0 6 3 3 0 0 0 0-6' : 'M0 4h10v2H0z'} />
        </svg>
        {t(connected.value ? 'live' : 'live.lost')}
      </span>
    </header>
  )
}

// left is how many seconds a change has until its deadline, by the daemon's clock.
function left(s: Status, arrived: number): number {
  return s.confirm ? s.confirm.left_seconds - (Date.now() - arrived) / 1000 : 0
}

function Banners() {
  const s = status.value
  const arrived = useRef({ now: '', at: 0 })
  if (s && arrived.current.now !== s.now) arrived.current = { now: s.now, at: Date.now() }
  const [, tick] = useState(0)
  useEvery(() => s?.confirm && tick((n) => n + 1), 250)
  useEffect(() => {
    if (s?.confirm) announce(t('announce.confirm', { left: countdown(left(s, arrived.current.at)) }))
  }, [s?.confirm?.hash])
  // The change that is shown is settled and no other, whatever waits when the request
  // arrives; and once, though it is shown until the next status.
  const [settling, setSettling] = useState(0)
  const settle = (path: string, n: number) => {
    setSettling(n)
    post<ChangeResult>(path, { n }).catch((err: unknown) => {
      setSettling(0)
      failed(err)
    })
  }
  if (!s) return null
  return (
    <>
      {s.confirm && (
        <section class="waiting" aria-label={t('confirm.title')}>
          <strong>{t('confirm.waits', { n: number(s.confirm.n) })}</strong>
          <span class="num" data-test="countdown">
            {t('confirm.returns', { left: countdown(left(s, arrived.current.at)) })}
          </span>
          {s.confirm.error && <span class="bad">{s.confirm.error}</span>}
          <span class="grow" />
          {session.value?.role === 'admin' && (
            <>
              <button type="button" class="primary" disabled={settling === s.confirm.n} onClick={() => settle('config/confirm', s.confirm!.n)}>
                <Icon name="check" />
                {t('confirm.keep')}
              </button>
              <button type="button" disabled={settling === s.confirm.n} onClick={() => settle('config/rollback', s.confirm!.n)}>
                <Icon name="undo" />
                {t('confirm.back')}
              </button>
            </>
          )}
        </section>
      )}
      {(!connected.value || (s.error ?? s.enforcement ?? s.reverted)) && (
        <div class="stack tight banners">
          {!connected.value && <Note kind="error">{t('unreachable')}</Note>}
          {s.error && <Note kind="error">{t('banner.rejected', { message: s.error.message })}</Note>}
          {s.enforcement && <Note kind="error">{t('banner.enforcement', { why: s.enforcement })}</Note>}
          {s.reverted && <Note kind="warning">{t('banner.reverted', { n: number(s.reverted.n), to: number(s.reverted.to), why: s.reverted.why })}</Note>}
        </div>
      )}
    </>
  )
}

function Toasts() {
  return (
    <div class="toasts">
      {toasts.value.map((x) => (
        <div key={x.id} class={`note ${x.kind}`} role={x.kind === 'error' ? 'alert' : 'status'}>
          <Icon name={x.kind === 'ok' ? 'check' : 'alert'} />
          <div class="grow">{x.text}</div>
          <button type="button" class="icon plain" aria-label={t('close')} onClick={() => dismiss(x.id)}>
            <Icon name="close" />
          </button>
        </div>
      ))}
    </div>
  )
}

const typing = (e: KeyboardEvent) => e.composedPath().some((n) => n instanceof HTMLElement && (/^(INPUT|TEXTAREA|SELECT)$/.test(n.tagName) || n.isContentEditable))

// useShortcuts: g and a letter go to a page, / to the filter, ? shows them all.
function useShortcuts(help: () => void): void {
  useEffect(() => {
    let goTo = 0
    const press = (e: KeyboardEvent) => {
      if (e.ctrlKey || e.metaKey || e.altKey || typing(e) || document.querySelector('dialog[open]')) return
      const page = Date.now() - goTo < 1500 ? pages.find((p) => p.key === e.key) : undefined
      goTo = 0
      if (page) go(page.id)
      else if (e.key === 'g') goTo = Date.now()
      else if (e.key === '?') help()
      else if (e.key === '/') document.querySelector<HTMLElement>('[data-filter]')?.focus()
      else return
      e.preventDefault()
    }
    addEventListener('keydown', press)
    return () => removeEventListener('keydown', press)
  }, [])
}

function Help({ onClose }: { onClose: () => void }) {
  const rows: [string[], string][] = [
    ...pages.map((p): [string[], string] => [['g', p.key], t(`nav.${p.id}` as Key)]),
    [['/'], t('help.filter')],
    [['↑', '↓'], t('help.rows')],
    [['Enter'], t('help.open')],
    [['Space'], t('help.pause')],
    [['?'], t('help.this')],
    [['Esc'], t('help.close')],
  ]
  return (
    <Dialog title={t('help')} onClose={onClose}>
      <dl class="facts" lang={language.value}>
        {rows.map(([keys, what]) => (
          <>
            <dt dir="ltr">
              {keys.map((k) => (
                <>
                  <kbd>{k}</kbd>{' '}
                </>
              ))}
            </dt>
            <dd>{what}</dd>
          </>
        ))}
      </dl>
    </Dialog>
  )
}

