import { useSignalEffect } from '@preact/signals'
import { Component, type ComponentChildren, type ComponentType, type Ref } from 'preact'
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
// loaded are the pages whose scripts have come.
const loaded = new Map<string, ComponentType>()
// lost are the style sheets that did not come, which nobody else asks for again.
const lost = new Set<HTMLLinkElement>()
addEventListener('error', (e) => e.target instanceof HTMLLinkElement && lost.add(e.target), true)
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
  const [missing, setMissing] = useState('')
  const [, redraw] = useState(0)

  useEffect(() => {
    startEvents()
    return stopEvents
  }, [])
  // Pages that fill the window leave room for what is above them.
  const top = useRef<HTMLDivElement>(null)
  useEffect(() => {
    const sizes = new ResizeObserver(([e]) => document.documentElement.style.setProperty('--above', `${(e!.target as HTMLElement).offsetHeight}px`))
    sizes.observe(top.current!)
    return () => sizes.disconnect()
  }, [])
  // A script that does not come is asked for again when the daemon answers again, or by
  // hand; then it may be one of a daemon that is not this any more, and all has to be new.
  const load = (again = false) => {
    if (loaded.has(here.id)) return
    setMissing('')
    document.head.append(...lost)
    lost.clear()
    here.load().then(
      (m) => {
        loaded.set(here.id, m.default)
        redraw((n) => n + 1)
      },
      () => (again && connected.value ? location.reload() : setMissing(here.id)),
    )
  }
  useEffect(() => load(), [here.id, connected.value])
  // The menu on a phone has the focus while it is open.
  const burger = useRef<HTMLButtonElement>(null)
  const opened = useRef(false)
  useEffect(() => {
    if (opened.current && !menu) burger.current?.focus()
    opened.current = menu
    if (!menu) return
    document.querySelector<HTMLElement>('.side a')?.focus()
    const wide = matchMedia('(width > 800px)')
    wide.onchange = () => setMenu(false)
    return () => {
      wide.onchange = null
    }
  }, [menu])
  // A page that was gone to has the focus and its name in the window's title. The
  // first one is left alone: the focus is where a reader begins.
  const first = useRef(true)
  useEffect(() => {
    opened.current = false
    setMenu(false)
    if (!first.current) {
      main.current?.focus({ preventScroll: true })
      scrollTo(0, 0)
    }
    first.current = false
  }, [here.id])
  useSignalEffect(() => {
    document.title = `${t(`nav.${pageOf(place.value.page).id}` as Key)} · netpolicy`
  })
  useShortcuts(() => setHelp(true))
  useEffect(
    () =>
      on('transitions', (e) => announce(t('announce.transition', { uplink: e.uplink || t('host'), state: t(`state.${e.to || 'none'}` as Key), why: e.why }))),
    [],
  )

  const Current = loaded.get(here.id)
  return (
    <div class="shell" onClick={(e) => e.target === e.currentTarget && setMenu(false)} onKeyDown={(e) => e.key === 'Escape' && setMenu(false)}>
      <button type="button" class="skip" inert={menu} onClick={() => main.current?.focus()}>
        {t('skip')}
      </button>
      <Side open={menu} here={here.id} onHelp={() => setHelp(true)} onClose={() => setMenu(false)} />
      <div ref={top} inert={menu}>
        <Strip burger={burger} onMenu={() => setMenu(true)} open={menu} />
        <Banners />
      </div>
      <main ref={main} tabIndex={-1} aria-labelledby="page" aria-busy={!Current && missing !== here.id} inert={menu}>
        {Current ? (
          <Guard key={here.id}>
            <Current />
          </Guard>
        ) : (
          <>
            <h1 id="page">{t(`nav.${here.id}` as Key)}</h1>
            {missing === here.id ? <Failed onAgain={() => load(true)} /> : <p class="empty">…</p>}
          </>
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
        <Failed why={this.state.error} onAgain={() => this.setState({ error: '' })} />
      </>
    )
  }
}

function Failed({ why, onAgain }: { why?: string; onAgain: () => void }) {
  return (
    <>
      <Note kind="error">{why ?? t('failed')}</Note>
      <div class="bar">
        <button type="button" onClick={onAgain}>
          {t('failed.again')}
        </button>
      </div>
    </>
  )
}

function Side({ open, here, onHelp, onClose }: { open: boolean; here: string; onHelp: () => void; onClose: () => void }) {
  const themes: Record<string, { icon: IconName; next: 'system' | 'light' | 'dark' }> = {
    system: { icon: 'auto', next: dark.value ? 'light' : 'dark' },
    light: { icon: 'sun', next: 'dark' },
    dark: { icon: 'moon', next: 'system' },
  }
  const now = themes[theme.value]!
  return (
    <div class={open ? 'side open' : 'side'} id="side" role={open ? 'dialog' : 'complementary'} aria-modal={open || undefined} aria-label={open ? t('menu') : undefined}>
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
    </div>
  )
}

// Strip is what is to be seen on every page: the state, each line, and whether this is live.
// What was measured before the daemon stopped to answer is not known any more.
function Strip({ burger, onMenu, open }: { burger: Ref<HTMLButtonElement>; onMenu: () => void; open: boolean }) {
  const s = status.value
  const live = connected.value
  return (
    <header class="strip">
      <button ref={burger} type="button" class="icon plain burger" aria-label={t('menu')} aria-expanded={open} aria-controls="side" onClick={onMenu}>
        <Icon name="menu" />
      </button>
      {s && (
        <>
          <a class="line" href={link('state')}>
            <StateMark state={live ? s.state : ''} />
          </a>
          {s.uplinks.map((u) => (
            <a key={u.name} class="line" href={link('uplinks')}>
              <StateMark state={live ? u.state : ''} bare />
              <Mono>{u.name}</Mono>
              <span class={`num ${u.up || !live ? 'muted' : 'bad'}`}>{!live ? t('unknown') : !u.up ? t('uplink.down') : u.rtt_ms >= 0 ? ms(u.rtt_ms) : t('unknown')}</span>
            </a>
          ))}
          {live && <span class="muted">{tn('connections', s.flows)}</span>}
          {s.mode === 'observe' && <span class="tag warn">{t('mode.observe')}</span>}
        </>
      )}
      <span class={`live state ${live ? 'ok' : 'bad'}`}>
        <svg viewBox="0 0 10 10" aria-hidden="true">
          <path d={live ? 'M5 2a3 3 0 1 0 0 6 3 3 0 0 0 0-6' : 'M0 4h10v2H0z'} />
        </svg>
        {t(live ? 'live' : 'live.lost')}
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
  const [read, setRead] = useState('') // which return was taken note of
  if (!s) return null
  const reverted = s.reverted?.time === read ? undefined : s.reverted
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
      {(!connected.value || (s.error ?? s.enforcement ?? reverted)) && (
        <div class="stack tight banners">
          {!connected.value && <Note kind="error">{t('unreachable')}</Note>}
          {s.error && <Note kind="error">{t('banner.rejected', { message: s.error.message })}</Note>}
          {s.enforcement && <Note kind="error">{t('banner.enforcement', { why: s.enforcement })}</Note>}
          {reverted && (
            <Note kind="warning" onClose={() => setRead(reverted.time)}>
              {t('banner.reverted', { n: number(reverted.n), to: number(reverted.to), why: reverted.why })}
            </Note>
          )}
        </div>
      )}
    </>
  )
}

function Toasts() {
  return (
    <div class="toasts">
      {toasts.value.map((x) => (
        <Note key={x.id} kind={x.kind} onClose={() => dismiss(x.id)}>
          {x.text}
        </Note>
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

